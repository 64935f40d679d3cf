"""The child side: what happens inside the user's interpreters. The only room that imports torch.

Nothing here may break a script that works under plain ``python``, and nothing is imported before it is needed.
"""
