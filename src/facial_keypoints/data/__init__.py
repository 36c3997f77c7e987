"""Reading, cleaning, checking, splitting, drawing and saving faces with keypoints."""
