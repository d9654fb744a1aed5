"""
Prepares a data set: turns raw files into Parquet, and writes a card that describes the data. The script is the command
`patchrec prepare`, and takes its options:
    python examples/prepare_data.py ml-100k data/ml-100k --ties release
"""

import sys

from patchrec_hf.commands.prepare import main


if __name__ == "__main__":
    main(sys.argv[1:])
