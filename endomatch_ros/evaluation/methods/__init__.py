"""The methods that an evaluation compares: ours, classical ones of OpenCV, learned ones through kornia."""
