"""What a watcher does as references come to name other versions, good and bad."""

from __future__ import annotations

import asyncio
import dataclasses
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.bundle import Bundle
from anomvae.daemon.watching import Watcher, named_references
from anomvae.errors import BundleError, ModelReferenceError, ScoringError, SettingError, TrackingError
from anomvae.observability import Log, Metrics
from anomvae.references import FoundModel
from anomvae.serving.model import ServedModel
from anomvae.serving.models import ModelTable
from anomvae.serving.shadow import Shadow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.bundle import Manifest


class Finder:
    """Names whatever the test says."""

    def __init__(self) -> None:
        self.names: FoundModel | Exception = ModelReferenceError("nothing yet")
        self.challenges: FoundModel | Exception | None = None

    def find(self, ref: str) -> FoundModel:
        del ref
        if isinstance(self.names, Exception):
            raise self.names
        return self.names

    def challenger(self, ref: str) -> FoundModel | None:
        del ref
        if isinstance(self.challenges, Exception):
            raise self.challenges
        return self.challenges


class Loader:
    """Loads everything but versions the test calls bad; remembers what it was asked for."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.gone: set[str] = set()
        self.unlucky: set[str] = set()
        self.loaded: list[str] = []

    def load(self, name: str, found: FoundModel) -> ServedModel:
        self.loaded.append(found.version)
        if found.version in self.gone:
            self.gone.remove(found.version)
            raise ModelReferenceError("the folder has changed since it was read")
        if found.version in self.unlucky:
            self.unlucky.remove(found.version)
            raise ScoringError("it fails on probe rows (MemoryError)")
        if found.version in self.bad:
            raise BundleError("its graph does not answer as it should")
        session: Any = SimpleNamespace(input_specs=(), output_specs=(), chunk_rows=64)
        return ServedModel(name, found.version, found.bundle, session)

    def tell_provider(self, model: ServedModel) -> None: ...


class Scene:
    """A watcher of one model, `press`, that has begun to serve version 1."""

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        self.bundle = bundle
        self.finder, self.loader = Finder(), Loader()
        self.metrics, self.told = Metrics(), StringIO()
        self.models = ModelTable(["press"])
        self.shadow = Shadow(self.models, SimpleNamespace(), self.metrics, share=1.0)  # type: ignore[arg-type]
        self.watcher = Watcher(
            self.finder,
            self.loader,  # type: ignore[arg-type]
            self.metrics,
            Log(self.told),
            **options,
        )

    def version(self, number: int, manifest: Manifest | None = None, note: str | None = None) -> FoundModel:
        """A version of the model, by default with the columns of the first one."""
        bundle = Bundle(self.bundle.folder, manifest or self.bundle.manifest)
        return FoundModel("press", str(number), bundle, f"{number:02d}" * 32, f"press/{number}", note)

    async def begin(self) -> None:
        if isinstance(self.finder.names, Exception):
            self.finder.names = self.version(1)
        await self.watcher.find(["press@champion"])
        await self.watcher.start(self.models, self.shadow)

    async def look(self, **how: bool) -> Exception | None:
        try:
            await self.watcher.look("press", **how)
        except Exception as error:  # noqa: BLE001  the test looks at it
            return error
        return None

    def serving(self) -> str:
        return self.models.get("press").version

    def in_shadow(self) -> str | None:
        """The version in shadow, which the metric must tell as well."""
        challenger = self.models.challenger("press")
        version = None if challenger is None else challenger.version
        told = [sample.labels["version"] for sample in self._samples("anomvae_shadow_info")]
        assert told == [] if version is None else told == [version]
        return version

    def troubles(self) -> tuple[float, float]:
        """Gauges: refused, unresolved."""
        return self._value("anomvae_model_reload_refused"), self._value("anomvae_model_reference_unresolved")

    def reloads(self, outcome: str) -> float:
        return self._value("anomvae_model_reloads_total", outcome=outcome)

    def _value(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, {"model": "press", **labels})
        assert value is not None
        return value

    def _samples(self, name: str) -> list[Any]:
        return [
            sample for family in self.metrics.registry.collect() if family.name == name for sample in family.samples
        ]


@pytest.fixture
def scene(fitted: Bundle) -> Iterator[Scene]:
    made = Scene(fitted)
    yield made
    made.watcher.close()


def test_a_new_version_is_swapped_in_and_the_old_one_can_come_back(scene: Scene) -> None:
    async def story() -> None:
        await scene.begin()
        assert (scene.serving(), scene.troubles(), scene.reloads("loaded")) == ("1", (0, 0), 0)
        assert await scene.look() is None
        assert scene.loader.loaded == ["1"]
        for number, loaded in ((2, 1), (1, 2)):
            scene.finder.names = scene.version(number)
            assert await scene.look() is None
            assert (scene.serving(), scene.troubles(), scene.reloads("loaded")) == (str(number), (0, 0), loaded)

    asyncio.run(story())


def test_a_refused_version_is_not_tried_at_each_look_but_when_it_is_asked_for(scene: Scene) -> None:
    async def story() -> None:
        await scene.begin()
        scene.loader.bad.add("2")
        scene.finder.names = scene.version(2)
        assert isinstance(await scene.look(), BundleError)
        for _ in range(3):
            assert await scene.look() is None
        assert (scene.serving(), scene.troubles(), scene.loader.loaded) == ("1", (1, 0), ["1", "2"])
        assert isinstance(await scene.look(again=True), BundleError)
        assert (scene.loader.loaded, scene.reloads("refused")) == (["1", "2", "2"], 2)
        scene.loader.bad.clear()
        assert await scene.look(again=True) is None
        assert (scene.serving(), scene.troubles()) == ("2", (0, 0))

    asyncio.run(story())


def test_a_version_that_was_replaced_while_it_was_loaded_is_tried_again_at_the_next_look(scene: Scene) -> None:
    async def story() -> None:
        await scene.begin()
        scene.loader.gone |= {"2", "3"}
        scene.finder.names, scene.finder.challenges = scene.version(2), scene.version(3)
        assert isinstance(await scene.look(), ModelReferenceError)
        assert (scene.serving(), scene.troubles()) == ("1", (0, 1))
        for challenger in (None, "3"):
            assert await scene.look() is None
            assert (scene.serving(), scene.troubles(), scene.in_shadow()) == ("2", (0, 0), challenger)

    asyncio.run(story())


def test_a_version_that_could_not_be_run_for_a_moment_is_tried_again_at_the_next_look(scene: Scene) -> None:
    async def story() -> None:
        await scene.begin()
        scene.loader.unlucky |= {"2", "3"}
        scene.finder.names, scene.finder.challenges = scene.version(2), scene.version(3)
        await scene.watcher.look_at_all()
        assert (scene.serving(), scene.reloads("failed"), scene.reloads("refused")) == ("1", 1, 0)
        assert '"event":"reload failed"' in scene.told.getvalue()
        for challenger in (None, "3"):
            assert await scene.look() is None
            assert (scene.serving(), scene.troubles(), scene.in_shadow()) == ("2", (0, 0), challenger)

    asyncio.run(story())


def test_what_was_refused_is_settled_by_the_old_version_and_tried_anew_when_it_comes_back(scene: Scene) -> None:
    async def story() -> None:
        await scene.begin()
        scene.loader.bad.add("2")
        scene.finder.names = scene.version(2)
        await scene.look()
        scene.finder.names = scene.version(1)
        assert await scene.look() is None
        assert scene.troubles() == (0, 0)
        scene.finder.names = scene.version(2)
        assert isinstance(await scene.look(), BundleError)
        assert scene.troubles() == (1, 0)

    asyncio.run(story())


def test_a_registry_that_is_back_is_no_longer_told_as_gone_while_its_version_stays_refused(scene: Scene) -> None:
    async def story() -> None:
        await scene.begin()
        scene.loader.bad.add("2")
        refused = scene.finder.names = scene.version(2)
        await scene.look()
        scene.finder.names = TrackingError("the registry does not answer")
        assert isinstance(await scene.look(), TrackingError)
        assert scene.troubles() == (1, 1)
        scene.finder.names = refused
        assert await scene.look() is None
        assert scene.troubles() == (1, 0)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("trouble", "troubles", "outcome"),
    [
        (TrackingError("the registry does not answer"), (0, 1), "failed"),
        (ModelReferenceError("no such model"), (0, 1), "failed"),
        (BundleError("it is damaged"), (1, 0), "refused"),
        (RuntimeError("secret"), (0, 1), "failed"),
    ],
)
def test_a_look_that_fails_leaves_what_serves_and_says_so(
    scene: Scene, trouble: Exception, troubles: tuple[float, float], outcome: str
) -> None:
    async def story() -> None:
        await scene.begin()
        scene.finder.names = trouble
        await scene.watcher.look_at_all()
        assert (scene.serving(), scene.troubles(), scene.reloads(outcome)) == ("1", troubles, 1)
        scene.finder.names = scene.version(1)
        await scene.watcher.look_at_all()
        assert (scene.serving(), scene.troubles()) == ("1", (0, 0))
        assert "secret" not in scene.told.getvalue()

    asyncio.run(story())


def _renamed(manifest: Manifest) -> Manifest:
    first, *others = manifest.columns
    return dataclasses.replace(manifest, columns=(dataclasses.replace(first, name="other"), *others))


def test_other_columns_are_refused_unless_they_are_wanted(fitted: Bundle) -> None:
    async def story(*, wanted: bool) -> Exception | None:
        scene = Scene(fitted, accept_new_columns=wanted)
        await scene.begin()
        scene.finder.names = scene.version(2, _renamed(fitted.manifest))
        error = await scene.look()
        assert scene.serving() == ("2" if wanted else "1")
        assert scene.troubles() == ((0, 0) if wanted else (1, 0))
        assert scene.loader.loaded == (["1", "2"] if wanted else ["1"])
        scene.watcher.close()
        return error

    assert asyncio.run(story(wanted=True)) is None
    assert "--accept-new-columns" in str(asyncio.run(story(wanted=False)))


def test_other_categories_are_swapped_in_with_a_warning(scene: Scene, fitted: Bundle) -> None:
    columns = tuple(
        dataclasses.replace(column, categories=column.categories[::-1]) if column.categories else column
        for column in fitted.manifest.columns
    )

    async def story() -> None:
        await scene.begin()
        scene.finder.names = scene.version(2, dataclasses.replace(fitted.manifest, columns=columns))
        assert await scene.look() is None
        assert scene.serving() == "2"
        assert "category codes changed" in scene.told.getvalue()

    asyncio.run(story())


def test_a_challenger_comes_changes_and_goes(scene: Scene) -> None:
    async def story() -> None:
        scene.finder.challenges = scene.version(2)
        await scene.begin()
        assert (scene.serving(), scene.in_shadow()) == ("1", "2")
        scene.finder.challenges = scene.version(3)
        await scene.look()
        assert scene.in_shadow() == "3"
        await scene.look()
        assert scene.loader.loaded == ["1", "2", "3"]
        scene.finder.challenges = None
        await scene.look()
        assert scene.in_shadow() is None

    asyncio.run(story())


def test_a_challenger_that_becomes_champion_is_no_longer_told_as_challenger(scene: Scene) -> None:
    async def story() -> None:
        scene.finder.challenges = scene.version(2)
        await scene.begin()
        scene.finder.names = scene.version(2)
        await scene.look()
        assert (scene.serving(), scene.in_shadow()) == ("2", None)
        scene.finder.names = scene.version(3)
        await scene.look()
        assert (scene.serving(), scene.in_shadow()) == ("3", "2")

    asyncio.run(story())


def test_a_challenger_that_could_not_be_looked_up_for_a_while_comes_back(scene: Scene) -> None:
    async def story() -> None:
        challenger = scene.finder.challenges = scene.version(2)
        await scene.begin()
        scene.finder.challenges = TrackingError("the registry does not answer")
        assert await scene.look() is None
        scene.finder.challenges = challenger
        assert await scene.look() is None
        assert scene.in_shadow() == "2"

    asyncio.run(story())


@pytest.mark.parametrize("trouble", [TrackingError("gone"), BundleError("damaged"), RuntimeError("secret")])
def test_whatever_is_wrong_with_a_challenger_concerns_no_champion(scene: Scene, trouble: Exception) -> None:
    async def story() -> None:
        scene.finder.challenges = trouble
        await scene.begin()
        scene.finder.names = scene.version(2)
        assert await scene.look() is None
        assert (scene.serving(), scene.in_shadow(), scene.troubles()) == ("2", None, (0, 0))
        assert "secret" not in scene.told.getvalue()

    asyncio.run(story())


def test_a_bad_challenger_is_not_loaded_at_each_look_and_a_mended_one_is(scene: Scene, fitted: Bundle) -> None:
    async def story() -> None:
        scene.loader.bad.add("2")
        scene.finder.challenges = scene.version(2)
        await scene.begin()
        await scene.look()
        assert (scene.loader.loaded, scene.in_shadow()) == (["1", "2"], None)
        scene.finder.challenges = scene.version(3, _renamed(fitted.manifest))  # wants a column callers do not send
        await scene.look()
        assert scene.in_shadow() is None
        scene.finder.challenges = scene.version(4)
        await scene.look()
        assert scene.in_shadow() == "4"

    asyncio.run(story())


def test_looks_at_the_same_time_load_a_version_once(scene: Scene) -> None:
    async def story() -> None:
        await scene.begin()
        scene.finder.names = scene.version(2)
        await asyncio.gather(*(scene.watcher.look("press") for _ in range(5)))
        assert scene.loader.loaded == ["1", "2"]

    asyncio.run(story())


def test_what_the_operator_should_know_is_told(scene: Scene) -> None:
    scene.finder.names = scene.version(1, note="'press' has no champion: this is its newest version, 1")
    asyncio.run(scene.begin())
    assert "has no champion" in scene.told.getvalue()


def test_a_name_is_split_from_its_reference_where_there_is_one() -> None:
    words = ["press=./bundle", "pumps@champion", "./a=b/c", "models:/pumps/2", "a=b=c"]
    assert named_references(words) == [
        ("press", "./bundle"),
        (None, "pumps@champion"),
        (None, "./a=b/c"),
        (None, "models:/pumps/2"),
        ("a", "b=c"),
    ]


@pytest.mark.parametrize("words", [["one@champion", "two@champion"], ["=one@champion"], ["a\nb=one"]])
def test_names_that_cannot_be_told_apart_or_shown_are_refused(scene: Scene, words: list[str]) -> None:
    scene.finder.names = scene.version(1)
    if words == ["=one@champion"]:  # no name given: the model's own
        assert asyncio.run(scene.watcher.find(words)) == ("press",)
    else:
        with pytest.raises(SettingError):
            asyncio.run(scene.watcher.find(words))
