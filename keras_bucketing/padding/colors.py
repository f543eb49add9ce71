"""The colors of all pictures and bars: color-blind readers tell them apart, on light and on dark pages."""

# Okabe and Ito's (https://jfly.uni-koeln.de/color/), for the buckets from the shortest on.
BUCKETS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")
REAL = BUCKETS[0]
PADDING = "#80808066"  # half transparent, so that it stands back as much from a black page as from a white one
LINES = "#808080"
