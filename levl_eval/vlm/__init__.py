"""A frozen language model that answers from a frozen encoder's patch tokens through a trained connector."""

from levl_eval._compat import repair

repair()
