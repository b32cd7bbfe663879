"""The live page of runs. It reads run folders, and writes nothing to them."""
