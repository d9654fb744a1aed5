"""
Evaluates a checkpoint or a baseline on the whole catalog. The script is the command `patchrec evaluate`, and takes its
options:
    python examples/evaluate.py --model outputs/final --output_dir outputs/evaluation
"""

import sys

from patchrec_hf.commands import evaluate as command
from patchrec_hf.commands.evaluate_arguments import EvaluateArguments


Arguments, main = EvaluateArguments, command.evaluate


if __name__ == "__main__":
    command.main(sys.argv[1:])
