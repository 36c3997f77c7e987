"""Past one process: millions of images on Ray Data (extra ``ray``).

Layers: ``storage`` (files anywhere) < ``inputs`` (what is to be read) < ``manifest`` (what a run is)
< ``worker`` (one block: images in, part out) < ``run``, which alone knows Ray.
"""
