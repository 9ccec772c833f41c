"""The node under measurement: what it does with a stream of a camera's speed."""
