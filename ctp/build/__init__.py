"""Building shards: data set layouts, transcoding, and the build itself."""
