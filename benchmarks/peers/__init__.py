"""Other tools' training, each run by the Python that has the tool."""
