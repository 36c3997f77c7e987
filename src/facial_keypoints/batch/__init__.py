"""Millions of images, on many processes and machines, with Ray Data (extra ``ray``).

Each module imports only those before it: ``storage`` (files anywhere), ``inputs`` (which images),
``manifest`` (the settings and blocks of a run), ``worker`` (predicts one block), ``run`` (Ray).
"""
