"""Retraining: the recipes' schedules and losses written out naively, exact resume, and accuracies by counting."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pynas import export, spaces
from pynas.data import Arrays, ImageData
from pynas.errors import InputError
from pynas.export import DEIT, EFFICIENTNET, RECIPES, Retraining, evaluate, retrain
from pynas.export.recipes import TRANSFERS, recipe_of, training_loader
from pynas.nn.mbconv import MBConv
from pynas.teachers import Teacher


def tiny_data(count=24, classes=3):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (count, 3, 8, 8), dtype=torch.uint8, generator=rng)
    part = Arrays(images, torch.arange(count) % classes)
    return ImageData("tiny", part, part, part, classes, (3, 8, 8), (0.5,) * 3, (0.25,) * 3, True, "0" * 16)


def tiny_model(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), MBConv(4, 4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Dropout(0.0), nn.Linear(4, classes))  # fmt: skip


def method(recipe, **options):
    return Retraining(tiny_model(), recipe, num_classes=3, batch_size=8, batches=10, **options)


def test_schedule_of_deit():
    """For 5 of 300 epochs linear from a thousandth up, then a cosine down to a hundredth (1e-5 of 1e-3)."""
    trained = method(DEIT)
    for step in (0, 10, 49, 50, 100, 1500, 2999):
        if step < 50:
            expected = 1e-3 + (1 - 1e-3) * step / 50
        else:
            expected = 1e-2 + (1 - 1e-2) * (1 + np.cos(np.pi * step / 3000)) / 2
        assert trained.rate_factor(step / 10, 300) == pytest.approx(expected, abs=1e-9)
    assert trained.optimizer().param_groups[0]["lr"] == pytest.approx(1e-3 * 8 / 1024)


def test_schedule_of_efficientnet_stretches_with_the_epochs():
    """Times 0.97 every 2.4 epochs of 350, so every 0.24 of 35."""
    trained = method(EFFICIENTNET)
    for step in (10, 100, 349):
        assert trained.rate_factor(step / 10, 35) == pytest.approx(0.97 ** (step // 2.4), rel=1e-9)
    optimizer = trained.optimizer()
    assert type(optimizer).__name__ == "RMSpropTF" and optimizer.param_groups[0]["lr"] == pytest.approx(
        0.256 * 8 / 4096
    )
    decays = {p.ndim > 1: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {True: 1e-5, False: 0.0}
    assert trained.model[5].p == 0.2


def test_plain_loss_is_smoothed_cross_entropy():
    trained, images = method(EFFICIENTNET).eval(), torch.randn(8, 3, 8, 8)
    labels = torch.arange(8) % 3
    losses = trained.training_step(images, labels, np.random.default_rng(0))
    log_p = functional.log_softmax(trained.model(images), 1)
    smoothed = 0.9 * functional.one_hot(labels, 3) + 0.1 / 3
    torch.testing.assert_close(losses["classes"], -(smoothed * log_p).sum(1).mean().detach())


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_distillation_against_the_formula(kind):
    torch.manual_seed(1)
    teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), ["0"])
    trained = method(replace(EFFICIENTNET, drop=0.0), teacher=teacher, distill=0.25, kind=kind, temperature=2.0).eval()
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    losses = trained.training_step(images, labels, np.random.default_rng(0))
    student, teacher_logits = trained.model(images), teacher.module(images)
    if kind == "soft":
        p = torch.softmax(teacher_logits / 2, 1)
        expected = (p * (p.log() - torch.log_softmax(student / 2, 1))).sum(1).mean() * 4
    else:
        expected = functional.cross_entropy(student, teacher_logits.argmax(1))
    torch.testing.assert_close(losses["distillation"], expected.detach())
    gradient = trained.model[0].weight.grad.clone()
    whole = 0.75 * functional.cross_entropy(student, labels, label_smoothing=0.1) + 0.25 * expected
    (wanted,) = torch.autograd.grad(whole, [trained.model[0].weight])
    torch.testing.assert_close(gradient, wanted)
    assert all(p.grad is None for p in teacher.parameters())


def test_the_papers_numbers():
    """BossNAS (appendix A.2), DNA (sections 4.3 and 4.4), Pi-NAS (section 4.2), and DNA's rows of table 2."""
    numbers = {
        name: (r.optimizer, r.schedule, r.learning_rate, r.batch_size, r.weight_decay, r.epochs)
        for name, r in RECIPES.items()
    }
    assert numbers["deit"] == ("adamw", "cosine", 1e-3, 1024, 0.05, 300) and DEIT.ema == 0.99996
    assert numbers["efficientnet"] == ("rmsproptf", "step", 0.256, 4096, 1e-5, 350)
    assert (EFFICIENTNET.decay_rate, EFFICIENTNET.decay_epochs, EFFICIENTNET.momentum) == (0.97, 2.4, 0.9)
    assert numbers["resnest"][:2] == ("momentum", "cosine") and numbers["resnest"][5] == 270
    augmentations = {name: recipe.augmentation.split("-")[0] for name, recipe in RECIPES.items()}
    assert augmentations == {"small": "standard", "deit": "rand", "efficientnet": "standard", "efficientnet-aa": "v0",
                             "efficientnet-ra": "rand", "resnest": "augmix", "resnest-aa": "original"}  # fmt: skip
    for recipe in (*RECIPES.values(), *TRANSFERS.values()):
        next(iter(training_loader(tiny_data(), recipe, 8)))


def test_numbers_of_a_recipe_can_be_changed():
    assert DEIT.changed({"mixup": "0.2", "epochs": 3}) == replace(DEIT, mixup=0.2, epochs=3)
    for values, message in (
        ({"mixin": 1}, "expected numbers of a recipe of optimizer, learning_rate, .*, got 'mixin'"),
        ({"name": "mine"}, "got 'name'"),
        ({"drop": 2}, "expected drop to be less than or equal to 1, got 2"),
        ({"optimizer": "foo"}, "expected an optimizer that timm knows, as sgd, adamw or rmsproptf, got 'foo'"),
        ({"schedule": "plateau"}, "expected schedule to be 'cosine', 'step', 'tanh' or 'poly', got 'plateau'"),
        ({"ema": 1}, "expected ema to be less than 1, got 1"),
        ({"epochs": 0}, "expected epochs to be greater than or equal to 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            DEIT.changed(values)


@pytest.mark.parametrize("name", ["autoformer-mini", "vit-mini"])
def test_a_distillation_token_against_the_formula(name, tmp_path):
    """Labels train the first classifier, the teacher's decisions the second; later the mean of both classifies."""
    space = spaces.get(name)
    architecture = next(iter(space.architectures()))
    torch.manual_seed(0)
    model = export.fresh_network(space, architecture, 3, distilled=True)
    teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), ["0"])
    trained = Retraining(model, replace(DEIT, mixup=0.0, cutmix=0.0, drop_path=0.0), num_classes=3, batch_size=8, batches=10,
                         teacher=teacher, distill=0.5, kind="token").train()  # fmt: skip
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
    losses = trained.training_step(images, labels, np.random.default_rng(0))
    features, head = nn.Sequential(*list(model.children())[:-1])(images), model.head
    if name == "vit-mini":
        pooled = head.norm(features.mean((2, 3)))
        ours, theirs = head.classifier(pooled), head.distillation(pooled)
    else:
        tokens = head.norm(features)
        ours, theirs = head.classifier(tokens[:, 1:].mean(1)), head.distillation(tokens[:, 0])
    torch.testing.assert_close(losses["classes"], functional.cross_entropy(ours, labels, label_smoothing=0.1).detach())
    torch.testing.assert_close(
        losses["distillation"], functional.cross_entropy(theirs, teacher.module(images).argmax(1)).detach()
    )
    assert head.distillation.weight.grad.abs().sum() > 0
    model.eval()
    torch.testing.assert_close(model(images), (ours + theirs) / 2)
    export.save_subnet(tmp_path / "file.safetensors", model, space, architecture, 3)
    loaded, metadata = export.load_subnet(tmp_path / "file.safetensors")
    assert metadata["distilled"] and torch.equal(loaded(images), model(images))
    # Without the second classifier the network is the plain one.
    plain = export.fresh_network(space, architecture, 3).eval()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "distillation" not in key})
    torch.testing.assert_close(plain(images), ours)


def test_mixing_repeats_with_the_steps_generator():
    trained, images, labels = method(DEIT).eval(), torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    first, again, other = (
        float(trained.training_step(images.clone(), labels, np.random.default_rng(seed))["classes"])
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_average_follows_the_weights():
    trained = method(replace(DEIT, ema=0.5))
    optimizer = trained.optimizer()
    expected = trained.model[6].weight.detach().clone()
    for step in range(1, 4):
        trained.training_step(torch.randn(8, 3, 8, 8), torch.arange(8) % 3, np.random.default_rng(step))
        optimizer.step()
        trained.after_step(step / 10, 300)
        # timm's warm-up: 1 - step^(-2/3) from the second update on, at most the recipe's decay.
        decay = 0.0 if step == 1 else min(0.5, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * trained.model[6].weight.detach()
        torch.testing.assert_close(trained.result[6].weight, expected)


@pytest.mark.parametrize("recipe", [DEIT, EFFICIENTNET], ids=lambda recipe: recipe.name)
def test_stopped_and_resumed_it_ends_the_same(tmp_path, recipe):
    data, options = tiny_data(), {"epochs": 3, "batch_size": 8, "seed": 3}
    whole, measured = retrain(tiny_model(), data, recipe, **options)

    def stop(step):
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrain(tiny_model(), data, recipe, run=tmp_path, on_step=stop, **options)
    resumed, again = retrain(tiny_model(), data, recipe, run=tmp_path, **options)
    assert again == measured
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))
    assert not torch.equal(whole[0].weight, tiny_model()[0].weight)


def test_accuracies_by_counting():
    data, model = tiny_data(40, 8), tiny_model(8).eval()
    measured = evaluate(model, data)
    images = (data.test.images.float() / 255 - 0.5) / 0.25
    logits = model(images).detach()
    order = logits.argsort(1, descending=True).tolist()
    labels = data.test.labels.tolist()
    assert measured["top1"] == sum(row[0] == label for row, label in zip(order, labels)) / 40
    assert measured["top5"] == sum(label in row[:5] for row, label in zip(order, labels)) / 40
    assert measured["loss"] == pytest.approx(float(functional.cross_entropy(logits, data.test.labels)), rel=1e-5)


def test_augmentation_repeats_and_differs_by_epoch():
    loader = training_loader(tiny_data(), DEIT, 8, seed=1)
    loader.set_epoch(0)
    first = next(iter(loader))[0]
    loader.set_epoch(0)
    assert torch.equal(next(iter(loader))[0], first)
    loader.set_epoch(1)
    assert not torch.equal(next(iter(loader))[0], first)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="even batch size"):
        Retraining(tiny_model(), DEIT, num_classes=3, batch_size=7, batches=1)
    with pytest.raises(InputError, match="soft, hard, token"):
        method(DEIT, kind="warm")
    with pytest.raises(
        InputError, match="expected a teacher, and a network with a second classifier .*, got no teacher"
    ):
        method(DEIT, kind="token")
    with pytest.raises(InputError, match="expected a vision transformer for a distillation token"):
        export.add_distillation(tiny_model())
    with pytest.raises(InputError, match="expected a recipe of small, deit, .*, got 'sgd'"):
        recipe_of("sgd")
    teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), ["0"])
    with pytest.raises(InputError, match="teacher of 3 classes"):
        method(DEIT, teacher=teacher).training_step(
            torch.randn(8, 3, 8, 8), torch.arange(8) % 3, np.random.default_rng(0)
        )
