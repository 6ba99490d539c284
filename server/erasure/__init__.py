"""Clients that withdraw: excluded, located by their own proof, unlinked, and told what was done.

`handles` stand for clients in cohorts; `withdrawals` says who is out; `cases` opens, decides and
closes; `affected` finds what a client took part in and what came of it; `evidence` what that cost
it; `proof` whether a client asked; `unlinking` removes what linked it; `report` is handed over.
"""
