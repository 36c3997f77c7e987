"""Networks, built with Keras."""
