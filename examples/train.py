"""
Trains a recommender on any log of interactions. The script is the command `patchrec train`, and takes its options:
    accelerate launch --config_file examples/accelerate/one_process.yaml examples/train.py --data clicks.csv \
        --items products.csv --columns user_id=customer item_id=sku title=name --output_dir outputs/shop
"""

import sys

from patchrec_hf.commands import train as command


parse, main = command.parse, command.train


if __name__ == "__main__":
    command.main(sys.argv[1:])
