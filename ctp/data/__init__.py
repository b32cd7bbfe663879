"""Which videos there are, in which order they are used, and how samples are drawn from them."""
