"""From raw video to segments worth training on: measure, decide by rules, write shards."""
