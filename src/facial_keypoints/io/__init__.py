"""Reading and writing images, videos and tables; drawing on images."""
