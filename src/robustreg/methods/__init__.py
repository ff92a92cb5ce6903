"""Papers as compositions: one file a paper, each a function that returns an objective and carries a card."""

from robustreg.methods.alp import alp
from robustreg.methods.arow import arow
from robustreg.methods.card import Card, card_of
from robustreg.methods.cross_lipschitz import cross_lipschitz
from robustreg.methods.cure import cure
from robustreg.methods.edge_reg import edge_reg
from robustreg.methods.elle import elle, elle_a
from robustreg.methods.energy import energy
from robustreg.methods.gat import gat
from robustreg.methods.grad_align import grad_align
from robustreg.methods.grad_norm import grad_norm, warn_if_relu
from robustreg.methods.gradient_family import gradient_family
from robustreg.methods.hat import hat
from robustreg.methods.ikl import ikl
from robustreg.methods.input_gradient import double_backpropagation, tulip
from robustreg.methods.jacobian import jacobian
from robustreg.methods.llr import llr
from robustreg.methods.mart import mart
from robustreg.methods.multi_grad import multi_grad
from robustreg.methods.n_fgsm import n_fgsm
from robustreg.methods.nuat import nuat
from robustreg.methods.pgd_at import pgd_at
from robustreg.methods.r_fgsm import r_fgsm
from robustreg.methods.rs_fgsm import rs_fgsm
from robustreg.methods.sat import sat_r1, sat_r2, sat_r3
from robustreg.methods.trades import trades
from robustreg.methods.vat import adversarial_training_l2, vat
from robustreg.methods.zero_grad import zero_grad

__all__ = [
    "Card",
    "adversarial_training_l2",
    "alp",
    "arow",
    "card_of",
    "cross_lipschitz",
    "cure",
    "double_backpropagation",
    "edge_reg",
    "elle",
    "elle_a",
    "energy",
    "gat",
    "grad_align",
    "grad_norm",
    "gradient_family",
    "hat",
    "ikl",
    "jacobian",
    "llr",
    "mart",
    "multi_grad",
    "n_fgsm",
    "nuat",
    "pgd_at",
    "r_fgsm",
    "rs_fgsm",
    "sat_r1",
    "sat_r2",
    "sat_r3",
    "trades",
    "tulip",
    "vat",
    "warn_if_relu",
    "zero_grad",
]
