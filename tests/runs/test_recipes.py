"""Recipes by name: the papers' own values, the default by the size of images, and what a run makes of them."""

import shlex

import pytest
import yaml

from pynas import runs
from pynas.errors import InputError
from pynas.runs import METHODS
from pynas.runs.commands import train_command
from pynas.runs.folders import describe_recipe, wanted_settings
from pynas.runs.recipes import recipe_of
from pynas.runs.settings import method_options

# Values as the papers print them, with their places; the batch is the whole of a step.
PRINTED = {
    # DNA, section 4.3 (MBConv); eq. 6 and 7.
    ("dna", "paper"): {"learning_rates": (0.002, 0.005), "decay": 0.9, "decay_every": 1, "optimizer": "adam",
                       "loss": "relative_l1", "logits_after": 1.0, "epochs": 20, "val_images": 50_000},
    # DNA, section 4.4 (ViT): AdamW, x0.9 every three epochs, for a batch of 256.
    ("dna", "paper-vit"): {"learning_rates": (0.0025, 0.0025), "decay": 0.9, "decay_every": 3, "optimizer": "adamw",
                           "epochs": 20, "batch": 256},
    # DNA, section 4.4 (DNA++): LARS, a cosine, for a batch of 256; eq. 11 of the teacher alone.
    ("dna-pp", "paper"): {"learning_rate": 0.33, "both": False, "epochs": 20, "batch": 256, "val_images": 50_000},
    # BossNAS, section 5 and appendix A.2.
    ("bossnas", "paper"): {"hidden": 4096, "dim": 256, "rate": 4.8, "paths": 4, "warmup_epochs": 1.0, "epochs": 20,
                           "batch": 4096, "val_images": 50_000},
    ("bossnas", "paper-nats-size"): {"rate": 4.8, "epochs": 30, "batch": 4096, "val_fraction": 0.5, "val_images": None},
    # Pi-NAS, section 4.1.
    ("pinas", "paper"): {"momentum": 0.999, "learning_rate": 0.03, "weight_decay": 1e-4, "epochs": 100, "batch": 192,
                         "projector_norm": False, "linear_rate": 30.0, "linear_epochs": 100, "linear_batch_size": 256,
                         "budget": 1000, "search": "action-space", "queue_size": 49_152, "augmentation": "moco",
                         "val_images": 50_000},
    # PreNAS, section 4.1.
    ("prenas", "paper"): {"learning_rate": 1e-3, "min_rate": 2e-5, "epochs": 500, "batch": 1024, "interval": "1M"},
    # SPOS as the baseline of DNA's table 7 (section 4.5): 120 epochs.
    ("spos", "paper"): {"epochs": 120, "val_images": 50_000},
}  # fmt: skip


@pytest.mark.parametrize(("method", "recipe"), PRINTED)
def test_the_papers_values(method, recipe):
    options = METHODS[method].options()
    settings = options.settings(recipe)
    batch = {"batch": settings["batch_size"] * settings.get("accumulate", 1)}
    values = options.filled(recipe, {}) | settings | batch
    assert {name: values[name] for name in PRINTED[method, recipe]} == PRINTED[method, recipe]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_both_recipes_of_known_options(method):
    options = METHODS[method].options()
    assert {"small", "paper"} <= set(options.recipes)
    for name, values in options.recipes.items():
        assert set(options.filled(name, {})) == set(options.method) | set(options.stages)
        unknown = set(values) - set(options.method) - set(options.stages)
        assert unknown <= {"epochs", "batch_size", "accumulate", "val_fraction", "val_images"}


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ({}, "small"),
        ({"space": "mbconv-dna"}, "paper"),
        ({"space": "mbconv-dna", "image_size": 64}, "small"),
        ({"space": "mbconv-mini", "image_size": 224}, "paper"),
        ({"space": "vit-dna"}, "paper-vit"),
        ({"recipe": "paper"}, "paper"),
        ({"recipe": "code", "space": "mbconv-dna"}, "code"),
        ({"recipe": "small", "space": "vit-dna"}, "small"),
        ({"method": "bossnas", "space": "nats-size"}, "small"),
        ({"method": "bossnas", "space": "nats-size", "recipe": "paper"}, "paper-nats-size"),
        ({"method": "bossnas", "space": "nats-size-cifar100", "recipe": "code"}, "code-nats-size"),
        ({"method": "prenas", "space": "autoformer-tiny"}, "paper-tiny"),
        ({"method": "spos", "space": "autoformer-base"}, "paper-base"),
        ({"method": "prenas", "space": "bignas-cnn"}, "paper"),
    ],
)
def test_the_default_and_the_variant_for_a_space(given, recipe):
    wanted = wanted_settings(None, given)
    assert wanted.recipe == recipe
    offered = recipe_of(wanted.method, wanted.space).options()
    assert {name: getattr(wanted, name) for name in offered.settings(recipe)} == offered.settings(recipe)


def test_single_values_go_before_the_recipe_and_both_are_kept(tmp_path):
    run = runs.create(tmp_path / "run", method="bossnas", recipe="paper", epochs=3, options={"dim": 8})
    assert (run.options["dim"], run.options["hidden"], run.settings.epochs, run.settings.accumulate) == (8, 4096, 3, 64)
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["recipe"] == "paper" and kept["options"] == {"dim": 8} and kept["batch_size"] == 64
    described = describe_recipe(run.settings)
    assert described == {"recipe": "paper", "paper": "paper", "differs": {"dim": [8, 256], "epochs": [3, 20]}}
    small = describe_recipe(wanted_settings(None, {"method": "bossnas"}))["differs"]
    assert small["hidden"] == [512, 4096] and small["rate"] == [19.2, 4.8] and small["accumulate"] == [1, 64]


def test_a_folder_goes_on_with_its_recipe_and_refuses_another(tmp_path):
    made = runs.create(tmp_path / "run", space="vit-mini", recipe="paper")
    assert made.settings.recipe == "paper-vit"
    assert (
        runs.create(tmp_path / "run", recipe="paper").settings
        == runs.create(tmp_path / "run").settings
        == made.settings
    )
    with pytest.raises(InputError, match="expected recipe = 'paper-vit', as .* was made with, got 'small'"):
        runs.create(tmp_path / "run", recipe="small")


def test_a_folder_from_before_recipes_was_a_small_one(tmp_path):
    made = runs.create(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    assert content.pop("recipe") == "small"
    path.write_text(yaml.safe_dump(content))
    assert runs.load(tmp_path / "run").settings == made.settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "large"}, "expected a recipe of small, paper, paper-vit, code for this method, got 'large'"),
        ({"method": "spos", "recipe": "code"}, "expected a recipe of small, paper for this method, got 'code'"),
        ({"method": "prenas", "recipe": "paper-vit"}, "expected a recipe of small, paper, .*, got 'paper-vit'"),
    ],
)
def test_a_recipe_of_another_method_is_refused(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        runs.create(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_numbers_of_the_released_script_need_as_many_blocks(tmp_path):
    with pytest.raises(
        InputError, match="a space of 6 blocks, for each of which the recipe code has numbers, got 5 in mbconv-boss"
    ):
        runs.create(tmp_path / "run", space="mbconv-boss", recipe="code")
    assert not (tmp_path / "run").exists()
    rates = {"learning_rates": [0.1, 0.2, 0.3]}
    run = runs.create(tmp_path / "run", space="mbconv-mini", data="digits", limit_images=100, options=rates)
    run.rehearsal = True
    with pytest.raises(
        InputError, match="learning_rates of the first block and the others, or of each of 4 blocks, got 3"
    ):
        run.method()


@pytest.mark.parametrize(
    ("method", "old", "recipe"), [("prenas", "tiny", "paper-tiny"), ("dna", "paper", "paper"), ("dna", "none", "small")]
)
def test_a_folder_whose_recipe_was_an_option_is_read(tmp_path, method, old, recipe):
    runs.create(tmp_path / "run", method=method)
    path = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    del content["recipe"], content["keep_epochs"]
    path.write_text(yaml.safe_dump({**content, "options": {"recipe": old}}))
    assert runs.load(tmp_path / "run").settings.recipe == recipe


def test_generations_take_the_recipe_that_suits_the_space(tmp_path):
    run = runs.create(tmp_path / "run", method="dna-plus", space="vit-mini", recipe="paper", options={"generations": 1})
    assert run.recipe.generation(run, 1).settings.recipe == "paper-vit"


def test_repeated_settings_are_read_back_alike(tmp_path):
    options = {"dna": {"weight_decay": 1e-5, "loss": None, "learning_rates": [1e-7, 0.1]}, "saturation": 0.9}
    made = runs.create(tmp_path / "run", method="dna-plus", keep_epochs=[2], options=options).settings
    words = shlex.split(train_command(made, "again"))
    given = [words[number + 1] for number, word in enumerate(words) if word == "--option"]
    assert method_options(given) == made.options
    assert words[words.index("--keep-epochs") + 1] == "2" and words[words.index("--recipe") + 1] == "small"


def test_every_option_reaches_its_part(tmp_path):
    options = {"both": False, "gamma": 0.5, "augmentation": "moco", "learning_rate": 0.4}
    run = runs.create(tmp_path / "run", method="dna-pp", batch_size=32, accumulate=4, limit_images=200, options=options)
    method = run.method()
    assert (method.loss.both, method.loss.gamma) == (False, 0.5)
    assert method.learning_rate == pytest.approx(0.4 * 32 * 4 / 256)
    views, _ = next(iter(run.training_loader()))
    expected = run.data.loader("train", 32, "moco", views=2)
    assert all(a.equal(b) for a, b in zip(views, next(iter(expected))[0], strict=True))


def test_a_recipes_number_of_validation_images_is_at_most_a_fifth(tmp_path):
    run = runs.create(tmp_path / "paper", method="dna", recipe="paper", limit_images=200)
    assert run.settings.val_images == 50_000 and (len(run.data.train), len(run.data.val)) == (160, 40)
    assert describe_recipe(run.settings, len(run.data.val))["differs"] == {"val_images": [40, 50_000]}
    again = shlex.split(train_command(run.settings, "again"))
    assert again[again.index("--val-images") + 1] == "50000" and "--val-fraction" not in again
    named = runs.create(tmp_path / "named", method="dna", recipe="paper", limit_images=200, val_images=60)
    assert len(named.data.val) == 60
    too_many = runs.create(tmp_path / "too-many", method="dna", limit_images=200, val_images=200)
    with pytest.raises(InputError, match="val_images below the 200 training images, got 200"):
        too_many.data  # noqa: B018


def test_a_named_share_goes_before_the_recipes_number(tmp_path):
    run = runs.create(tmp_path / "share", recipe="paper", val_fraction=0.5, limit_images=200)
    assert run.settings.val_images is None and len(run.data.val) == 100
    runs.create(tmp_path / "number", val_images=50)
    with pytest.raises(InputError, match="expected val_images = 50, as .*number was made with, got val_fraction = 0.2"):
        runs.create(tmp_path / "number", val_fraction=0.2)
    with pytest.raises(InputError, match="expected val_images = None, as .*share was made with, got 20"):
        runs.create(tmp_path / "share", val_images=20)
    with pytest.raises(InputError, match="val_fraction or val_images, got both, 0.2 and 50; leave one out"):
        runs.create(tmp_path / "both", val_fraction=0.2, val_images=50)


def test_a_folder_from_before_numbers_of_validation_images_goes_by_its_share(tmp_path):
    made = runs.create(tmp_path / "run", recipe="paper", val_fraction=0.3)
    path = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    del content["val_images"]
    path.write_text(yaml.safe_dump(content))
    assert runs.load(tmp_path / "run").settings == made.settings


def test_scaled_teachers_see_the_split_of_the_run(tmp_path):
    run = runs.create(tmp_path / "run", method="dna-plus", recipe="paper", limit_images=200, space="mbconv-mini")
    assert run.split == run.recipe.generation(run, 1).split == {"limit": 200, "val_images": 50_000, "val_at_most": 0.2}
