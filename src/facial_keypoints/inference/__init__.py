"""From images and videos to keypoints, tracks, aligned crops and measures; never imports Keras."""
