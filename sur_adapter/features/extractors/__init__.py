"""One module per kind of features; base.py has the contract."""
