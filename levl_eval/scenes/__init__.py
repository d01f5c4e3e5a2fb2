"""The generated world: one symbolic scene from which image, masks, captions, questions and classes all follow."""

VERSION = 5  # of the generator; a change of any image or text for the same seed raises it
