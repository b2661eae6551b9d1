"""An ANet as small as can be."""

TINY = {
    "input_size": (31, 23),
    "stages": (((4, 4, 1),), ((5, 3, 1),)),
    "c3": (6, 3, (2, 1)),
    "c4": (7, 1, (2, 1)),
    "features": 9,
    "attributes": 2,
}
