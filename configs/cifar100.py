"""Architecture search on CIFAR-100: seven methods times four skills, and random search.

Paper:    DARTS (arXiv 1806.09055), PC-DARTS (1907.05737), P-DARTS (1904.12760), DARTS-
          (2009.01027), DARTS+ (1909.06035), DARTS in NAS-Bench-201 (2001.00326); learning by passing tests (2011.15102),
          interleaving and joint learning (2103.07018) on top of each. The
          hyperparameters are those of the authors' code; the evaluation is DARTS's,
          but for the drop path of PC-DARTS, drop path and batches of P-DARTS, and all of
          NAS-Bench-201's. Pieces and their sources: configs/common.py.
Hardware: one GPU with 16 GB; not run at this size by this project.
Expected: not reproduced here. Test error as reported: P-DARTS 17.49 and, by learning by
          passing tests, 16.28 (arXiv 2011.15102); P-DARTS's own authors give 15.92.
Command:  python launch/run.py --config=configs/cifar100.py --workdir=runs/cifar100_darts2 --config.data.dir=FOLDER

FOLDER holds the official archive; for il and joint those of both CIFARs. See docs/data.md.
docs/experiments.md maps each variant to the row of the paper that it stands for.

Variants, as in `--config=configs/cifar100.py:lpt_pcdarts`; each also with `_smoke` behind it,
as in `lpt_pcdarts_smoke`: the same chain, tiny, on embedded digits.
  (none)                DARTS, second order, exact: baseline_darts2.
  baseline_darts1       DARTS, first order.
  baseline_pcdarts      partial channels and edge normalisation, first order.
  baseline_pdarts       three stages, deeper and with fewer candidates, first order.
  baseline_darts_minus  an auxiliary skip that fades linearly, first order.
  baseline_darts_plus   DARTS, first order, until the normal cell has two skips.
  baseline_nasbench201  DARTS, second order, in the space of NAS-Bench-201.
  lpt_darts1            learning by passing tests in the same search.
  lpt_darts2            second order, exact.
  lpt_pcdarts           as baseline_pcdarts.
  lpt_pdarts            as baseline_pdarts.
  lpt_darts_minus       as baseline_darts_minus.
  lpt_darts_plus        as baseline_darts_plus.
  lpt_nasbench201       as baseline_nasbench201.
  il_darts1             interleaving learning, two rounds of CIFAR-100, CIFAR-10.
  il_darts2             second order, exact.
  il_pcdarts            as baseline_pcdarts.
  il_pdarts             as baseline_pdarts.
  il_darts_minus        as baseline_darts_minus.
  il_darts_plus         as baseline_darts_plus.
  il_nasbench201        as baseline_nasbench201.
  joint_darts1          joint learning of CIFAR-100 and CIFAR-10.
  joint_darts2          second order, exact.
  joint_pcdarts         as baseline_pcdarts.
  joint_pdarts          as baseline_pdarts.
  joint_darts_minus     as baseline_darts_minus.
  joint_darts_plus      as baseline_darts_plus.
  joint_nasbench201     as baseline_nasbench201.
  random_darts          the best of 10 random cells by validation, five epochs each.
  random_nasbench201    the same in the space of NAS-Bench-201.
  smoke                 the default on the embedded digits, in about a minute.
"""

from pathlib import Path
from runpy import run_path

# A config may be loaded from anywhere: its neighbour is found beside it.
common = run_path(str(Path(__file__).with_name("common.py")))
get_config = common["matrix"]("cifar100")
