"""How the shipped keypoint model ``default`` was made."""
