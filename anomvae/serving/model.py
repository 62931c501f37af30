"""A model as it is served: one verified bundle, its session, and what requests need to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.scoring.scorer import answer_outputs

if TYPE_CHECKING:
    from anomvae.bundle import Bundle, Manifest
    from anomvae.scoring import GraphSession


class ServedModel:
    """A version of a model, loaded. It never changes: another version is another object.

    Args:
        name: Name it is served under.
        version: The registry's number; for a folder the first 12 digits of its manifest's digest.
        bundle: The verified bundle.
        session: Its graph, ready to run.

    Attributes:
        inputs: Specs of the inputs that carry rows, `numeric` before `categorical`, those the graph has.
        outputs: Specs of the outputs by name, in the graph's order.
        answered: Names of the outputs that answers for people hold, in their order.
    """

    def __init__(self, name: str, version: str, bundle: Bundle, session: GraphSession) -> None:
        self.name = name
        self.version = version
        self.bundle = bundle
        self.session = session
        self.inputs = tuple(spec for spec in session.input_specs if spec.name in ("numeric", "categorical"))
        self.outputs = {spec.name: spec for spec in session.output_specs}
        self.answered = answer_outputs(self.outputs)

    @property
    def manifest(self) -> Manifest:
        """Columns, calibration, provenance."""
        return self.bundle.manifest

    @property
    def verdict_p_value(self) -> str:
        """Name of the output that the verdict is held against."""
        decision = self.manifest.calibration.decision
        return {"reconstruction": "p_value_reconstruction", "both": "p_value_verdict"}.get(decision, "p_value")
