"""Papers as compositions: one file a paper, each a function that returns an objective and carries a card."""

from robustreg.methods.card import Card, card_of
from robustreg.methods.gradient_family import gradient_family

__all__ = ["Card", "card_of", "gradient_family"]
