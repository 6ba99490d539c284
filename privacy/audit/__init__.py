"""What an attacker finds out, to be held against what tacit claims.

Audits give *lower* bounds on epsilon, from canaries whose part in a run was drawn at random;
the accountant gives upper bounds. Where the lower one is above the claim, a mechanism isn't
what its plan says. An audit that finds nothing proves nothing: its attacker was too weak.

`one_run` bounds epsilon from guesses about many canaries in one run and assumes nothing of the
attack; `one_shot` estimates it from how far canaries show in the released models and assumes
normality; `canaries` says what was planted, and commits to it before the run.
"""
