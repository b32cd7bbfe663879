"""Build shards of a data set: Parquet files that load fast, from videos as they were published."""

from ctp.commands.build_shards import main

if __name__ == "__main__":
    main()
