"""The theory executed: operators, conditions and claims on a network of yours."""
