"""The pages of MLflow and TensorBoard in headless Chromium.

Each test saves a screenshot in pytest's temporary folder. Look at them after a change.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from llava_dvc.tracking.mlflow_store import EXPERIMENT
from llava_dvc.tracking.registry import CHALLENGER, CHAMPION, MODEL
from llava_dvc.tracking.results_table import VIEW
from llava_dvc.tracking.start_page import MLFLOW, TENSORBOARD, addresses, page_text
from tests.ui.conftest import PATIENCE, RESULTS, Logged, free_port, running

pytestmark = pytest.mark.ui
OPTION = ".du-bois-light-select-item-option"


class Page:
    """The browser, with waits for content that a page loads later."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get("about:blank")  # a change of the URL after # alone does not load the page
        self.driver.get(url)

    def until(self, holds: Callable[[], object]) -> object:
        """Waits for a true value of `holds` and returns it. Elements may change meanwhile."""
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[WebDriverException])
        try:
            return wait.until(lambda _: holds())
        except TimeoutException:
            pytest.fail(f"{self.driver.current_url} shows only:\n{self.text()[-3000:]}")

    def shows(self, *words: str) -> None:
        self.until(lambda: all(word in self.text() for word in words))

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def click(self, css: str) -> None:
        def clicked() -> bool:
            self.driver.find_element(By.CSS_SELECTOR, css).click()
            return True

        self.until(clicked)

    def image_size(self, css: str) -> tuple[int, int]:
        """Width and height of the loaded image in pixels."""
        script = "const i = document.querySelector(arguments[0]);"
        script += "return [i.naturalWidth, i.naturalHeight]"
        size = self.until(lambda: [n for n in self.driver.execute_script(script, css) if n])
        return tuple(size)

    def save(self, name: str, folder: Path) -> None:
        self.driver.save_screenshot(str(folder / f"{name}.png"))


@pytest.fixture
def page(
    browser: webdriver.Chrome, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Page]:
    page = Page(browser)
    page.driver.set_window_size(1600, 1100)
    yield page
    page.save(request.node.name, tmp_path)


@pytest.fixture(scope="module")
def client(logged: Logged) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(logged.server)


@pytest.fixture(scope="module")
def experiment(client: mlflow.MlflowClient) -> str:
    return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)


@pytest.fixture(scope="module")
def runs(client: mlflow.MlflowClient, experiment: str) -> dict[str, mlflow.entities.Run]:
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def test_four_writers_at_once_leave_four_complete_results(client, experiment, runs, logged):
    assert "tracking:" not in logged.errors
    assert runs.keys() == RESULTS.keys()
    for run in runs.values():
        assert run.info.status == "FINISHED"
        loss = client.get_metric_history(run.info.run_id, "train/loss")
        assert [point.step for point in loss] == list(range(1, 61))
        assert run.data.params["train.learning_rate"] == str(RESULTS[run.info.run_name][1])
        assert {"mae", "nll", "system/system_memory_usage_percentage"} <= run.data.metrics.keys()
        assert len(client.list_artifacts(run.info.run_id, "plots")) == 6
    versions = client.search_model_versions(f"name = '{MODEL}'")
    assert sorted(version.run_id for version in versions) == sorted(
        run.info.run_id for run in runs.values()
    )
    assert client.get_registered_model(MODEL).aliases.keys() == {CHALLENGER, CHAMPION}


def test_no_user_path_or_remote_is_recorded(client, experiment, runs):
    tags = [run.data.tags for run in runs.values()]
    tags += [model.tags for model in client.search_logged_models([experiment])]
    for found in tags:
        assert not found.keys() & {"mlflow.user", "mlflow.source.git.repoURL"}
        assert found["mlflow.source.name"] == "dvc.yaml"


def test_table_shows_the_results_best_first(page, logged, experiment, runs):
    view = f"viewStateShareKey={VIEW}&workflowType=machine_learning"
    page.driver.set_window_size(2200, 1100)  # MLflow does not draw columns outside the window
    page.open(f"{logged.server}/#/experiments/{experiment}/runs?{view}")
    page.shows(
        *RESULTS, *(str(run.data.metrics["mae"]) for run in runs.values()), "4 matching runs"
    )
    by_mae = sorted(runs, key=lambda name: runs[name].data.metrics["mae"])
    assert re.findall("|".join(runs), page.text()) == by_mae
    assert MODEL in page.text()


# From left to right on the screen: the page's own order is that in which columns were drawn.
VISIBLE_HEADERS = """
const left = cell => cell.getBoundingClientRect().left;
const cells = [...document.querySelectorAll(".ag-header-cell")];
return cells.sort((one, other) => left(one) - left(other)).map(cell => {
  const box = cell.getBoundingClientRect();
  const hit = document.elementFromPoint(Math.min(box.left + 60, box.right - 2), box.top + 8);
  return cell.contains(hit) ? cell.textContent.trim() : "";
}).filter(Boolean);
"""


def test_a_laptops_screen_shows_what_a_result_is_about(page, logged, experiment):
    """Without scrolling, and with the panel that MLflow opens on the right."""
    page.driver.set_window_size(1500, 900)
    page.open(addresses(experiment)["Results"][0].replace(MLFLOW, logged.server))
    page.shows(*RESULTS, "4 matching runs")
    order = ["Run Name", "Created", "mae", "mae_ci_low", "mae_ci_high", "Description"]
    page.until(lambda: page.driver.execute_script(VISIBLE_HEADERS) == order)


def test_two_runs_are_compared_on_parallel_coordinates(page, logged, experiment, runs):
    chosen = [runs[name] for name in ("brave-cat", "wise-elk")]
    ids = json.dumps([run.info.run_id for run in chosen])
    page.open(f'{logged.server}/#/compare-runs?runs={ids}&experiments=["{experiment}"]')
    page.shows("Parallel Coordinates Plot", "train.learning_rate", "brave-cat", "wise-elk")
    page.until(lambda: page.all("g.parcoords"))
    page.all("input[role=combobox]")[-1].send_keys("mae")

    def titles_with_mae() -> list[str]:
        """Clicks again if the list was drawn anew under the first click, which is then lost."""
        titles = [axis.text for axis in page.all("g.parcoords .axis-title")]
        for option in page.all(f"{OPTION}[title=mae]:not({OPTION}-selected)"):
            option.click()
        return titles if "mae" in titles else []

    assert "train.learning_rate" in page.until(titles_with_mae)
    for run in chosen:
        assert f"{run.data.metrics['mae']:.3f}" in page.text()


def test_a_runs_plots_are_shown(page, logged, experiment, runs):
    run = runs["calm-owl"].info.run_id
    place = f"{logged.server}/#/experiments/{experiment}/runs/{run}/artifacts/plots"
    page.open(f"{place}/prediction_vs_truth.png")
    page.shows("confusion.png", "count_over_time.png", "eval.csv")
    width, height = page.image_size("img[src*='prediction_vs_truth'], img[src^='blob:']")
    assert (width, height) == (660, 660)


def test_a_runs_curves_are_shown(page, logged, experiment, runs):
    run = runs["calm-owl"].info.run_id
    page.open(f"{logged.server}/#/experiments/{experiment}/runs/{run}/model-metrics")
    page.shows("loss", "learning_rate", "calm-owl (train/loss)", "calm-owl (val/mae)")
    assert page.until(lambda: page.all(".js-plotly-plot .scatterlayer path.js-line"))


def test_a_run_says_in_words_what_it_is(page, logged, experiment, runs):
    run = runs["calm-owl"]
    page.open(f"{logged.server}/#/experiments/{experiment}/runs/{run.info.run_id}")
    page.shows(f"MAE {run.data.metrics['mae']:.2f} people (95 %:", "champion", "lora of rank")


def test_the_start_page_leads_to_the_results(page, logged, experiment, runs, tmp_path):
    best = min(runs.values(), key=lambda run: run.data.metrics["mae"])
    file = tmp_path / "results.html"
    file.write_text(page_text(experiment, [best]).replace(MLFLOW, logged.server))
    page.open(file.as_uri())
    page.shows("Results", "Model", "Curves", best.info.run_name, "Adapter: lora of rank")
    page.click("a[href*=experiments]")
    page.shows(*RESULTS, "4 matching runs", "Description")


def test_a_run_shows_its_provenance(page, logged, experiment, runs):
    run = runs["calm-owl"].info.run_id
    page.open(f"{logged.server}/#/experiments/{experiment}/runs/{run}")
    page.shows("git_revision", "dirty", "version.torch", "adapter", "data-train", MODEL, "Finished")


def test_registered_model_shows_its_aliases_and_the_reason(page, logged, client):
    page.open(f"{logged.server}/#/models/{MODEL}?workflowType=machine_learning")
    page.shows("Version 4", f"@ {CHAMPION}", f"@ {CHALLENGER}")
    champion = client.get_model_version_by_alias(MODEL, CHAMPION)
    page.open(f"{logged.server}/#/models/{MODEL}/versions/{champion.version}")
    page.shows(champion.description, f"@ {CHAMPION}")


@pytest.fixture(scope="module")
def tensorboard(logged: Logged) -> Iterator[str]:
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logged.roots)]
    command += ["--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--load_fast", "false"]
    with running(command, f"{url}/data/environment"):
        yield url


def test_tensorboard_shows_scalars(page, tensorboard):
    page.open(f"{tensorboard}/#scalars")
    page.shows(*(f"{name}/runs/{name}" for name in RESULTS), "tag: result/accuracy")
    # The axis ends at the last step: the curve is drawn.
    page.until(lambda: re.search(r"tag: train/loss\n[^a-z]*\n60\n", page.text()))


def test_tensorboard_shows_curves_alone_at_the_address_of_make_ui(page, tensorboard):
    page.open(addresses("1")["Curves"][0].replace(TENSORBOARD, tensorboard))
    page.shows("Tags matching filter", "2 cards", "/loss", "/mae")  # not those of result/
    [smoothing] = page.until(
        lambda: page.all("[type=number][aria-labelledby=scalars-smoothing-label]")
    )
    assert smoothing.get_attribute("value") == "0"


ALL_TEXT = """
const text = node => node.nodeType == Node.TEXT_NODE
  ? node.data
  : [...node.childNodes, ...(node.shadowRoot?.childNodes ?? [])].map(text).join(" ");
return text(document.body);
"""
"""Also what is in shadow roots, of which the table of TensorBoard is built."""


def test_tensorboard_has_a_table_of_settings_and_figures(page, tensorboard):
    words = [*RESULTS, "train.learning_rate", "result/mae"]
    page.open(f"{tensorboard}/#hparams")
    page.until(lambda: all(word in page.driver.execute_script(ALL_TEXT) for word in words))


def test_tensorboard_shows_images(page, tensorboard):
    page.open(f"{tensorboard}/#images")
    page.shows("prediction_vs_truth", "reliability")
