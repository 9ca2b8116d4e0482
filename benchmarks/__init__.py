"""Side-by-side runs against peers on one machine. Not tests: they take long and judge nothing but speed and memory."""
