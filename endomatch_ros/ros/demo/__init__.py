"""Cameras and listeners around the node: publisher, recorder, replay and the demo made of them."""
