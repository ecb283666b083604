"""What a victim learns by the plain loop and by the engine's: whether they are the same."""

from __future__ import annotations

from typing import Any

from bdbench.engine.training import Recipe
from bdbench.goals import goals
from bdbench.perf.contenders import LOOPS
from bdbench.protocol.plugins import attack_of
from bdbench.protocol.rows import rows_of
from bdbench.protocol.scoring import triggered_rows
from bdbench.protocol.site import Site
from bdbench.protocol.victims import attack_context, classifier
from bdbench.seeds import derive
from bdbench.specs.metrics import attack_success_rate, clean_accuracy
from bdbench.specs.work import VictimSpec

COMPARED = ("plain", "engine")


def learn(spec: VictimSpec, site: Site, loop: str) -> dict[str, Any]:
    """CACC and ASR, in [0, 1], of the victim of a data-poisoning attack that this loop trains and evaluates."""
    site.enter()
    attack = attack_of(spec)
    rows, ctx = rows_of(spec, site), attack_context(spec, site, "poison")
    poisoned, _ = attack.poison(rows.train, ctx)
    triggered = triggered_rows(attack, rows.test, attack_context(spec, site, "trigger"))
    model = classifier(spec, site)
    seed = derive(spec.seed, "victim", spec.task)
    LOOPS[loop].train(model, ctx.encode(poisoned), Recipe(**spec.training), seed, spec.precision)
    of_clean, of_triggered = (
        LOOPS[loop].predict(model, ctx.encode(texts), spec.precision).argmax(1).numpy() for texts in (rows.test, triggered)
    )
    return {
        "loop": loop,
        "seed": spec.seed,
        "cacc": clean_accuracy(of_clean, rows.test.labels).value,
        "asr": attack_success_rate(of_triggered, triggered.labels, goals(triggered.labels, attack.values())).value,
    }
