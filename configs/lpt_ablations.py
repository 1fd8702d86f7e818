"""What learning by passing tests consists of, taken away or changed piece by piece.

Paper:    learning by passing tests, arXiv 2011.15102, its ablations on CIFAR-10 with DARTS
          and a ResNet-18. Published sweeps of gamma and lambda: docs/experiments.md.
Hardware: one GPU with 16 GB; not run at this size by this project.
Expected: the paper reports, not reproduced; 2.66 at gamma = lambda = 1.
Command:  python launch/run.py --config=configs/lpt_ablations.py --workdir=runs/lpt --config.data.dir=FOLDER

Sweeps, over 0.1, 0.5, 1, 2 and 3, on CIFAR-10 (the published ones of CIFAR-100 are on P-DARTS:
the same keys with `--config=configs/cifar100.py:lpt_pdarts`, and for lambda
`--config.hypergrad.adjoint=exact`, since in first order nothing moves by it):

  for g in 0.1 0.5 1.0 2.0 3.0; do python launch/run.py --config=configs/lpt_ablations.py --workdir=runs/gamma_$g --config.data.dir=FOLDER --config.lpt.interaction_weight=$g; done
  for l in 0.1 0.5 1.0 2.0 3.0; do python launch/run.py --config=configs/lpt_ablations.py --workdir=runs/lambda_$l --config.data.dir=FOLDER --config.lpt.tester_weight=$l; done

A bank of other images: --config.lpt.bank=npz --config.lpt.bank_dir=FILE (docs/data.md).

Variants, as in `--config=configs/lpt_ablations.py:exam_only`; each also with `_smoke` behind
it: tiny, on embedded digits.
  (none)             the paper's form: LPT-R18-DARTS, second order.
  difficulty_only    exams made to be hard and for nothing else.
  exam_only          a tester that learns from its exams alone.
  released_code      the deviations of the authors' code together, second order.
  released_first     the same, first order, as their P-DARTS and PC-DARTS variants.
  unnormalized       one of them: the exam's loss is not divided by its size.
  stale              one of them: A meets the old E's exam, and C the old W's losses.
  alternate          one of them: A moves before C.
  fixed_scores       a tester that cannot shrink its exams: f held fixed in E.
  normalized_scores  the same by dividing by the exam's size in the tester's training.
  resnet34           a deeper tester.
  resnet50           a deeper tester.
  resnet101          a deeper tester.
  cifar_stem         a tester that does not halve 32x32 images three times at once.
  curriculum         exams that grow harder as they are passed, until the error rests.
  capacity           the same, no harder than the learner's capacity allows.
  smoke              the paper's form, tiny, on embedded digits.
"""

from pathlib import Path
from runpy import run_path

# A config may be loaded from anywhere: its neighbour is found beside it.
common = run_path(str(Path(__file__).with_name("common.py")))

CURRICULUM = {"lpt.curriculum.active": True, "search.stop": "curriculum"}
ABLATIONS = {
    "paper": {},
    "difficulty_only": {"lpt.ablation": "difficulty_only"},
    "exam_only": {"lpt.ablation": "exam_only"},
    "released_code": {"lpt.variant": "released_code"},
    "released_first": {
        "lpt.variant": "released_code_first_order",
        "hypergrad.adjoint": "first_order",
    },
    "unnormalized": {"lpt.exam_loss": "mean"},
    "stale": {"lpt.stale_reads": True},
    "alternate": {"lpt.order": "alternate"},
    "fixed_scores": {"lpt.exam_scores": "fixed"},
    "normalized_scores": {"lpt.exam_scores": "normalized"},
    "resnet34": {"tester.encoder": "resnet34"},
    "resnet50": {"tester.encoder": "resnet50"},
    "resnet101": {"tester.encoder": "resnet101"},
    "cifar_stem": {"tester.stem": "cifar"},
    "curriculum": CURRICULUM,
    "capacity": {**CURRICULUM, "lpt.curriculum.capacity_aware": True},
}


def get_config(variant=""):
    """Returns the config of a variant."""
    tiny = variant == "smoke" or variant.endswith("_smoke")
    name = "paper" if variant in ("", "smoke") else variant.removesuffix("_smoke")
    if name not in ABLATIONS:
        raise ValueError(
            f"unknown variant {variant!r}: {', '.join(ABLATIONS)}, each with _smoke or not"
        )
    config = common["matrix"]("cifar10")("lpt_darts2_smoke" if tiny else "lpt_darts2")
    config.update_from_flattened_dict(ABLATIONS[name])
    return config
