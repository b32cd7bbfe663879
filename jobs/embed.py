"""Make features of a collection of videos, for retrieval and whatever else they are good for."""

from __future__ import annotations

import sys
import time

from ctp import recipes
from ctp.cli import CommandLine
from ctp.cluster.connect import check_place, cluster
from ctp.cluster.extract import demands, extract
from ctp.cluster.faults import StoppedError
from ctp.cluster.places import check_lasting
from ctp.data.quarantine import QuarantineLedger, format_quarantined
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import Extraction, open_extraction
from ctp.downstream.feature_folder import Counts, finish
from ctp.progress import VideoCounter, duration
from ctp.storage import StorageError
from ctp.training.run_folder import QUARANTINE

ABOUT = """Make features of videos by an encoder, a vector for each clip.

OUT gets Parquet files (id, clip, feature, label), a manifest.json that says what they are of, and
a quarantine.jsonl of the videos that could not be used. The same command goes on with what was
broken off.

  embed.py --encoder runs/my-run --data.uri data/ucf101/train --out features/train
  embed.py --encoder kinetics400 --data.uri s3://bucket/videos --out s3://bucket/features \\
           --scaling.use_gpu true --scaling.num_readers 12"""


def main(argv: list[str] | None = None) -> None:
    """Parse, make the features, and say what came out."""
    _, config = CommandLine(recipes.EMBED, "retrieval", ABOUT).parse(argv)
    try:
        _run(config)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except (ValueError, StorageError, ConnectionError) as error:
        sys.exit(f"error: {error}")
    except StoppedError as error:
        sys.exit(f"error: {error}\nThe same command goes on from here")


def _run(config: EmbedConfig) -> None:
    started = time.monotonic()
    check_place(demands(config.scaling))
    check_lasting(config.out, "out")
    extraction = open_extraction(config)
    print(_plan_line(extraction), flush=True)
    if extraction.left:
        number = extraction.videos_in(extraction.left)
        places = extraction.folder.uri, extraction.config.data.uri
        with cluster(places=places), VideoCounter(number) as counter:
            extract(extraction, counter.add)
    _report(extraction)
    print(f"{extraction.folder.uri} after {duration(time.monotonic() - started)}")


def _plan_line(extraction: Extraction) -> str:
    manifest = extraction.manifest
    done = manifest.num_parts - len(extraction.left)
    facts = [
        f"{manifest.num_listed} videos, {manifest.views.num_clips} clips of each",
        f"encoder {manifest.encoder}",
        f"{manifest.num_parts} parts",
        f"{done} of them are done" if done else "",
    ]
    return ", ".join(fact for fact in facts if fact)


def _report(extraction: Extraction) -> None:
    """Complete the folder and say what is in it.

    Raises:
        ValueError: no video could be used.
    """
    folder = extraction.folder
    counts = finish(folder, extraction.manifest, extraction.catalog.quarantined).counts
    assert isinstance(counts, Counts)
    print(f"{counts.videos} videos, {counts.clips} features, {counts.quarantined} quarantined")
    if counts.quarantined:
        ledger = list(QuarantineLedger.from_jsonl(folder.join(QUARANTINE).read_bytes()))
        print(format_quarantined(ledger, folder.join(QUARANTINE).uri))
    if not counts.videos:
        raise ValueError("no video could be used; see the reasons above")


if __name__ == "__main__":
    main()
