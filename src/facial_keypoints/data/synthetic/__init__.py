"""Faces and scenes that the package draws itself, with exact keypoints.

``geometry`` draws the parameters of a face and says where its points are, ``render`` paints it, ``faces``
makes data sets and Kaggle's files of them, ``scenes`` puts several into one photo.
"""
