"""What the nets have learnt: the findings of sections 3.1, 3.2 and 5.1 of the paper, each a file and a command.

`neurons` (Fig. 8), `layers` (Fig. 9), `groups` (Fig. 10), `regions` (Fig. 11), `maps` (Fig. 2, 4, 6, 14), `size`
(Fig. 13), and `compare`, two checkpoints over the same pictures.
"""
