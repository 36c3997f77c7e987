"""Past one process: millions of pictures on Ray Data (extra ``ray``).

Layers: ``storage`` (files anywhere) < ``inputs`` (what is to be read) < ``manifest`` (what a run is)
< ``worker`` (one block: pictures in, part out) < ``run``, which alone knows Ray.
"""
