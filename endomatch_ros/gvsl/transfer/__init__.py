"""What pre-training is worth for segmentation from few labels."""
