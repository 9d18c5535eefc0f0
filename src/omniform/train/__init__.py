"""Training: the ecosystem's Trainer over our models, and whatever else a training script asks for.

Nothing here is imported before it is named, and accelerate (the extra ``train``) not before a Trainer is made.
"""
