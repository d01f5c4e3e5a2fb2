"""Commands of `levl-eval`, one a module: ``add(commands)`` registers the parser; heavy imports happen inside the functions."""
