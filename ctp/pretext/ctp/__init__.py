"""The pretext task Catch-the-Patch (CVPR 2021)."""
