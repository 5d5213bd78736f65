"""Classic mistakes, each as a patch of one place in the real code, and the fast test that must notice it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.signal
import torch
from torch import Tensor

from flowbench.data.preparing.parts import Parts
from flowbench.densities.bases import standard_normal_log_prob
from flowbench.evaluation.error_bars import ErrorBar
from flowbench.forecasting.protocol import Scaler

__all__ = ["FAULTS", "Fault"]

BIJECTIONS = "tests/densities/flows/test_bijections.py::test_log_det_is_that_of_the_jacobian"
_TESTS = "tests/evaluation/test_likelihood.py"
_PIXELCNN = "tests/densities/autoregressive"
_CAUSAL = (
    f"{_PIXELCNN}/test_pixelcnn.py::"
    "test_a_pixels_distribution_depends_on_pixels_before_it_its_neighbours_among_them_and_on_no_other[elu]"
)
_SHAPES = f"{_PIXELCNN}/test_pixelcnn.py::test_what_is_doubled_lies_over_what_it_comes_from"
_OBJECTIVES = "tests/tasks/test_objectives.py"
_IAF_VAE = "tests/densities/variational/test_iaf_vae.py"
_BFLOAT16 = "tests/densities/flows/test_bfloat16.py"
VALUE = f"{_TESTS}::test_value_and_standard_error_are_those_over_images_of_the_mean_over_draws"


@dataclass(frozen=True)
class Fault:
    """`target`, a dotted path, becomes `mutate(what is there)`; `noticed_by` is a test's node id."""

    name: str
    target: str
    mutate: Callable[[Any], Any]
    noticed_by: str


def negative_log_det(forward: Any) -> Any:
    def wrong(*arguments: Any) -> tuple[Tensor, Tensor]:
        z, log_det = forward(*arguments)
        return z, -log_det

    return wrong


def whatever_was_computed_first(get: Any) -> Any:
    def wrong(self: Any, compute: Any, *sources: Any, keep: bool = True) -> Any:
        return get(self, compute, keep=keep)

    return wrong


def log_det_over_the_passed_pixels(forward: Any) -> Any:
    def wrong(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = forward(self, x)
        right = self._shift_and_log_scale(x)[1]
        mask, self.transformed = self.transformed, self.passed
        other = self._shift_and_log_scale(x)[1]
        self.transformed = mask
        return z, log_det + (other - right).flatten(1).sum(1)

    return wrong


def log_det_of_one_pixel(method: Any) -> Any:
    def wrong(self: Any, x: Tensor) -> Any:
        found = method(self, x)
        places = x.shape[2] * x.shape[3]
        return (found[0], found[1] / places) if isinstance(found, tuple) else found / places

    return wrong


def without_the_logit_term(flow_input: Any) -> Any:
    def wrong(self: Any, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        y, jacobian = flow_input(self, images, noise)
        return y, torch.zeros_like(jacobian)

    return wrong


def alpha_as_in_the_papers_text(_: Any) -> Any:
    def wrong(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - self.alpha) * x
        log_scale = math.log(1 - self.alpha) - torch.log(p) - torch.log1p(-p)
        return torch.log(p) - torch.log1p(-p), log_scale.flatten(1).sum(1)

    return wrong


def one_level_too_few(terms: Any) -> Any:
    def wrong(self: Any, images: Tensor, noise: Tensor) -> Any:
        found = terms(self, images, noise)
        return found._replace(
            quantization=torch.full_like(found.quantization, -self.dimensions * math.log(self.levels - 1))
        )

    return wrong


def no_noise(noise: Any) -> Any:
    return lambda *arguments: torch.zeros_like(noise(*arguments))


def noise_of_the_place_in_the_batch(noise: Any) -> Any:
    return lambda seed, split, indices, *others: noise(seed, split, range(len(indices)), *others)


def noise_added_to_floats(_: Any) -> Any:
    def wrong(self: Any, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        y, jacobian = self.preprocessing(images.to(noise.dtype) / self.levels + noise)
        return y, jacobian

    return wrong


def batch_statistics(_: Any) -> Any:
    @contextmanager
    def wrong(model: torch.nn.Module) -> Iterator[None]:
        modes = {module: module.training for module in model.modules()}
        model.train()
        yield
        for module, mode in modes.items():
            module.training = mode

    return wrong


def unbiased_variance(_: Any) -> Any:
    return lambda x: 10**9  # the factor (n − 1)/n that makes the variance biased becomes 1


def moving_averages_with_averaged_weights(statistics: Any) -> Any:
    return lambda model, training, setting: (
        nullcontext() if setting.weights == "ema" else statistics(model, training, setting)
    )


def positions_before_channels(_: Any) -> Any:
    def wrong(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = x.shape
        cells = torch.nn.functional.pixel_unshuffle(x, 2).view(batch, channels, 4, height // 2, width // 2)
        return cells.transpose(1, 2).flatten(1, 2), x.new_zeros(batch)

    return wrong


def rows_before_the_diagonal(_: Any) -> Any:
    def wrong(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        cells = [x[..., h::2, w::2] for h, w in ((0, 0), (0, 1), (1, 0), (1, 1))]
        return torch.cat(cells, dim=1), x.new_zeros(len(x))

    return wrong


def without_the_finest_scale(log_prob: Any) -> Any:
    def wrong(self: Any, z: Tensor) -> Tensor:
        finest = torch.nn.functional.pixel_unshuffle(z.reshape(len(z), *self.image_shape), 2).chunk(2, dim=1)[1]
        return log_prob(self, z) - standard_normal_log_prob(finest)

    return wrong


def without_log_two_pi(log_prob: Any) -> Any:
    return lambda z: log_prob(z) + 0.5 * math.log(2 * math.pi) * z[0].numel()


def without_the_last_batch(batches: Any) -> Any:
    def wrong(images: Any, batch_size: int, *arguments: Any, **options: Any) -> Iterator[Any]:
        for indices, batch in batches(images, batch_size, *arguments, **options):
            if len(indices) == batch_size:
                yield indices, batch

    return wrong


def without_the_last_windows(in_order: Any) -> Any:
    def wrong(self: Any, batch_size: int) -> Iterator[Any]:
        return (batch for batch in in_order(self, batch_size) if len(batch[0]) == batch_size)

    return wrong


def scaler_of_the_whole_file(_: Any) -> Any:
    def wrong(series: Any, data: Any) -> Scaler:
        values = series.values
        return Scaler(series.columns, tuple(values.mean(axis=0).tolist()), tuple(values.std(axis=0).tolist()))

    return wrong


def constant_without_rounding(_: Any) -> Any:
    return lambda mean, std, rows: std == 0


def futures_one_row_early(init: Any) -> Any:
    def wrong(self: Any, values: Tensor, part: Any, lookback: int, horizon: int, outputs: int, *runs: Any) -> None:
        init(self, values, part, lookback, horizon, outputs, *runs)
        rows = values[part.first : part.stop]
        self.futures = rows[lookback - 1 : -1, rows.shape[1] - outputs :].unfold(0, horizon, 1)

    return wrong


def mean_of_the_batches_means(measure: Any) -> Any:
    def wrong(forecaster: Any, windows: Any, batch_size: int = 256) -> Any:
        errors = [(forecaster(history) - future).double() for history, future in windows.in_order(batch_size)]
        return replace(
            measure(forecaster, windows, batch_size),
            absolute=np.mean([error.abs().mean(0).numpy() for error in errors], axis=0),
            squared=np.mean([error.square().mean(0).numpy() for error in errors], axis=0),
        )

    return wrong


def teacher_forcing_at_test_time(measure: Any) -> Any:
    def wrong(forecaster: Any, windows: Any, batch_size: int = 256) -> Any:
        futures = iter([future for _, future in windows.in_order(batch_size)])

        class Forced(torch.nn.Module):
            def forward(self, history: Tensor) -> Any:
                return forecaster.training_forward(history, next(futures), torch.Generator())

        return measure(Forced(), windows, batch_size)

    return wrong


def latents_of_the_wrong_scale(futures: Any) -> Any:
    return lambda self, past, latents: futures(self, past, 0.7 * latents)


def without_the_widths(log_prob: Any) -> Any:
    return lambda self, future, past: log_prob(self, future, past) + self.read(past).log_scale


def same_under_every_scaler(nll_under: Any) -> Any:
    return lambda errors, scaler, other: nll_under(errors, scaler, scaler)


def spread_over_all_pairs_with_themselves(crps: Any) -> Any:
    def wrong(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        m = samples.shape[-1]
        found, variance = crps(samples, truth)
        away = (samples - truth.unsqueeze(-1)).abs().mean(dim=-1)
        return away - (away - found) * (m - 1) / m, variance

    return wrong


def fitted_on_test_windows(_: Any) -> Any:
    return lambda self: self.model.fit(self._windows.splits["test"])


def initialized_again(initializing: Any) -> Any:
    @contextmanager
    def wrong(model: torch.nn.Module) -> Iterator[None]:
        with initializing(model):
            yield
        for module in model.modules():
            if hasattr(module, "initializing"):
                module.initializing = True

    return wrong


def without_the_channels(_: Any) -> Any:
    return property(lambda self: math.prod(self.image_shape[1:]))


def biased_standard_error(mean: Any) -> Any:
    def wrong(bits: Any) -> dict[str, Any]:
        return mean(bits) | {"stderr": float(bits.std() / math.sqrt(len(bits)))}

    return wrong


def mean_of_the_logarithms(_: Any) -> Any:
    return lambda values, axis: values.mean(axis=axis) + math.log(values.shape[axis])


def raw_weights(_: Any) -> Any:
    return lambda average, weights: nullcontext()


def step_that_asks_the_device(take_step: Any) -> Any:
    def wrong(optimizer: Any, parameters: Any, loss: Tensor, clip_norm: float | None) -> Any:
        return take_step(optimizer, parameters, loss, clip_norm if math.isfinite(loss.item()) else None)

    return wrong


def noise_finer_than_its_sum(training_noise: Any) -> Any:
    def wrong(*arguments: Any, **options: Any) -> Tensor:
        noise: Tensor = training_noise(*arguments, **options)
        return noise + (1 - 2**-7) * 2**-16

    return wrong


def mirrored_first_of_each_part(draw: Any) -> Any:
    return lambda plan, step: replace(draw(plan, step), mirrored=plan._local // 2)


def holdout_in_training(training_parts: Any) -> Any:
    def wrong(data: Any) -> Any:
        train, holdout = training_parts(data)
        return replace(train, rows=None), holdout

    return wrong


def rows_dealt_out_to_columns(_: Any) -> Any:
    return lambda values: values.reshape(-1, values.shape[1], 1)


def each_file_by_its_own_scaler(open_windows: Any) -> Any:
    return lambda series, data, *, device="cpu", scaler=None: open_windows(series, data, device=device)


def without_biases_that_cancel(network: Any) -> Any:
    def mutated(*arguments: Any) -> Any:
        *others, (bias_in, block_biases, skip_biases, bias_out) = arguments
        zeros = 0 * bias_in, [0 * bias for bias in block_biases], [0 * bias for bias in skip_biases], bias_out
        return network(*others, zeros)

    return mutated


def mean_without_gradient(gradients: Any) -> Any:
    def mutated(layer: Any, g: Tensor, of_shift: Tensor, *others: Any) -> Any:
        of_v, of_beta, of_weights = gradients(layer, g, of_shift, *others)
        count = layer.v.numel() // layer.v.shape[1]
        return of_v + (of_shift / count).view(1, -1, 1, 1), of_beta, of_weights

    return mutated


def unseen(_: Any) -> Any:
    return lambda tensors: None


def as_it_runs(_: Any) -> Any:
    return nullcontext


def other_bytes_unnoticed(_: Any) -> Any:
    return lambda run: None


def named_by_the_path_alone(_: Any) -> Any:
    return lambda name, fingerprint=None: name


def runs_of_half_a_day(in_constant_runs: Any) -> Any:
    return lambda values, rows_per_day: in_constant_runs(values, rows_per_day // 2)


def step_below_the_seed(_: Any) -> Any:
    return lambda stream, seed, step, *places: (seed << 32) + step


def parts_pooled_into_training(_: Any) -> Any:
    return lambda source: Parts({"train": source})


def without_how_images_were_resized(summarize: Any) -> Any:
    def wrong(parts: Any, model: Any, images: Any, *arguments: Any) -> Any:
        return summarize(parts, model, replace(images, choices={}), *arguments)

    return wrong


def lags_capped_below_the_horizon(compare_values: Any) -> Any:
    def wrong(a: Any, b: Any, *, horizon: int) -> Any:
        paired = compare_values(a, b, horizon=horizon)
        differences = np.mean(a, axis=0) - np.mean(b, axis=0) - paired.difference
        lags = max(1, min(3 * horizon, paired.n // 4))
        covariances = scipy.signal.correlate(differences, differences, method="fft")[paired.n - 1 :][: lags + 1]
        covariances *= 2 - 2 * np.arange(lags + 1) / (lags + 1)
        error = math.sqrt(covariances.sum() - covariances[0] / 2) / paired.n
        p_value = ErrorBar(error, 1.5 * paired.n / lags).p_value(paired.difference)
        return replace(paired, verdict="tie" if p_value >= 0.01 else "better" if paired.difference < 0 else "worse")

    return wrong


def any_images_will_do(_: Any) -> Any:
    return lambda self, choices: False


def unnamed_counts_as_the_released_way(choices: Any) -> Any:
    return lambda self, preprocessing: choices(self, {"resample": next(iter(self.resamples), None), **preprocessing})


def normal_quantile(p_value: Any) -> Any:
    return lambda self, difference: p_value(replace(self, freedom=math.inf), difference)


def spread_known_exactly(over_seeds: Any) -> Any:
    return lambda deviation, seeds: replace(over_seeds(deviation, seeds), freedom=math.inf)


_COUPLING = "flowbench.densities.flows.coupling"
_DENSITY = "flowbench.densities.flow_density.FlowDensity"


def free_bits_in_every_figure(terms: Any) -> Any:
    def wrong(self: Any, images: Tensor, noise: Tensor) -> Any:
        elbo, surplus = self.training_terms(images, noise)
        return elbo._replace(divergence=elbo.divergence - (0 if surplus is None else surplus))

    return wrong


def free_bits_on_top(training_terms: Any) -> Any:
    def wrong(self: Any, images: Tensor, noise: Tensor) -> Any:
        elbo, surplus = training_terms(self, images, noise)
        return elbo, None if surplus is None else surplus * len(images)

    return wrong


def bins_of_one_width(_: Any) -> Any:
    from flowbench.densities.variational.discretized_logistic import authors_log_prob

    return authors_log_prob


def flow_scaled_the_wrong_way(forward: Any) -> Any:
    def wrong(self: Any, z0: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        z, s = forward(self, z0, context)
        return z, -s

    return wrong


def bins_of_256_levels(bins: Any) -> Any:
    def wrong(images: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> Any:
        return bins(images, location, log_scale, 256)

    return wrong


def critic_that_prefers_samples(loss: Any) -> Any:
    def wrong(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
        found, distance = loss(*arguments, **named)
        return found + 2 * distance, distance

    return wrong


def flow_that_pleases_no_critic(forward: Any) -> Any:
    def wrong(self: Any, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logged = forward(self, *batch)
        return -loss, logged

    return wrong


def mask_off_by_one(mask: Any) -> Any:
    def wrong(channels_in: int, channels_out: int, strict: bool) -> Tensor:
        loose: Tensor = mask(channels_in, channels_out, False)
        return loose

    return wrong


_EVALUATION = "flowbench.evaluation.likelihood"
_WINDOWS = "tests/forecasting/test_windows.py"
_METRICS = "tests/forecasting/test_metrics.py"
_DISTRIBUTIONS = "tests/forecasting/test_distributions.py"
_SAME = "tests/runs/test_same_data.py"
_LEVEL = "tests/evaluation/test_overlapping.py::test_equal_models_differ_in_at_most_one_of_a_hundred_comparisons"


def copied_by_channels(channels_first: Any) -> Any:
    return lambda batch: channels_first(batch).contiguous()


def taken_anyhow(_: Any) -> Any:
    def wrong(finite: Tensor, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
        optimizer.step()

    return wrong


def seeing_the_pixel_itself(_: Any) -> Any:
    return lambda x: x


def one_column_further_right(cropped: Any) -> Any:
    def wrong(self: Any, y: Tensor) -> Tensor:
        return y[:, :, :-1, 1:] if self.left == 0 else y[:, :, :-1, 2 : y.shape[3]]

    return wrong


_TARFLOW = "flowbench.densities.flows.tarflow_block"
_TARFLOW_TESTS = "tests/densities/flows/test_tarflow.py"


def output_used_at_its_own_token(pad: Any) -> Any:
    """The mask off by one: what the transformer says at a token is used for it, not for the next one."""
    return lambda given, _: pad(given, (0, 0, 0, 1))


def in_the_order_of_forward(inverse: Any) -> Any:
    def wrong(self: Any, z: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        blocks = self.blocks
        self.blocks = torch.nn.ModuleList(reversed(list(blocks)))
        try:
            return inverse(self, z, *arguments)
        finally:
            self.blocks = blocks

    return wrong


def coefficients_by_the_colour_that_they_follow(parameters: Any) -> Any:
    def wrong(self: Any, outputs: Tensor) -> Any:
        found = parameters(self, outputs)
        order = [0, 2, 1] if self.channels == 3 else list(range(found.coefficients.shape[1]))
        return found._replace(coefficients=found.coefficients[:, order])

    return wrong


def scale_of_the_other_sign(inverse: Any) -> Any:
    def wrong(self: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        split = self._split

        def negated(out: Tensor) -> tuple[Tensor | None, Tensor]:
            log_scale, shift = split(out)
            return (None if log_scale is None else -log_scale), shift

        self._split = negated
        try:
            return inverse(self, *arguments)
        finally:
            del self._split

    return wrong


def outermost_bins_as_narrow_as_others(branches: Any) -> Any:
    def wrong(self: Any, parameters: Any, images: Tensor) -> Any:
        inner = (images.int() + 1).to(torch.int16)
        wider = type(self)(self.channels, self.components, self.levels + 2)
        scale = (self.levels - 1) / (self.levels + 1)
        moved = parameters._replace(means=parameters.means * scale, log_scales=parameters.log_scales + math.log(scale))
        return branches(wider, moved, inner)

    return wrong


def per_dimension(forward: Any) -> Any:
    """As in the authors' program, whose log-determinants are means over the values of an image."""

    def wrong(self: Any, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        z, log_det = forward(self, x, *arguments)
        return z, log_det / max(math.prod(x.shape[1:]), 1)

    return wrong


def constants_of_256_levels(init: Any) -> Any:
    def wrong(self: Any, channels: int, components: int, levels: int) -> None:
        init(self, channels, components, levels)
        self.levels = 256

    return wrong


def epsilon_outside_the_root(_: Any) -> Any:
    def wrong(self: Any, parameters: list[Any], group: Any) -> None:
        torch.optim.Adam(parameters, group["lr"], group["betas"], group["eps"]).step()

    return wrong


def norm_of_an_input_channel(_: Any) -> Any:
    return lambda self: self.V / self.V.square().sum((1, 2, 3), keepdim=True).sqrt()


def gradient_of_the_summed_error(errors_and_gradient: Any) -> Any:
    def wrong(forecast: Tensor, future: Tensor, *, of: str) -> tuple[Tensor, Tensor, Tensor]:
        squared, absolute, gradient = errors_and_gradient(forecast, future, of=of)
        return squared, absolute, gradient * gradient.numel()

    return wrong


def standard_normal_whatever_was_learned(_: Any) -> Any:
    """As in the authors' evaluation, which leaves the learned variances out."""
    return lambda self, z: standard_normal_log_prob(z)


FAULTS = [
    Fault("sign of a log-determinant", f"{_COUPLING}._forward", negative_log_det, f"{BIJECTIONS}[checkerboard]"),
    Fault(
        "a training step that asks the device whether the loss is finite",
        "flowbench.training.optimization.take_step",
        step_that_asks_the_device,
        "tests/training/test_on_cuda.py::test_an_optimizer_step_waits_for_nothing[adam]",
    ),
    Fault(
        "a coupling's log-determinant over the wrong mask",
        f"{_COUPLING}.CheckerboardCoupling.forward",
        log_det_over_the_passed_pixels,
        f"{BIJECTIONS}[checkerboard]",
    ),
    Fault(
        "a normalization's log-determinant of one pixel only",
        "flowbench.densities.flows.normalization.FlowBatchNorm.forward",
        log_det_of_one_pixel,
        f"{BIJECTIONS}[flow batch norm]",
    ),
    Fault(
        "a 1x1 convolution's log-determinant of one pixel only",
        "flowbench.densities.flows.conv1x1.Mixing._log_det",
        log_det_of_one_pixel,
        f"{BIJECTIONS}[1x1 convolution]",
    ),
    Fault(
        "the logit term left out",
        f"{_DENSITY}.flow_input",
        without_the_logit_term,
        "tests/densities/test_model.py::test_every_term_agrees_with_an_independent_formula",
    ),
    Fault(
        "alpha as in the paper's text",
        "flowbench.densities.preprocessing.Logit.forward",
        alpha_as_in_the_papers_text,
        "tests/densities/test_preprocessing.py::test_logit_is_the_authors_formula",
    ),
    Fault(
        "log 255 in place of log 256",
        f"{_DENSITY}.terms",
        one_level_too_few,
        "tests/densities/test_model.py::test_identity_on_uniform_images_gives_exactly_log2_of_the_levels",
    ),
    Fault("no dequantization noise at test time", f"{_EVALUATION}.evaluation_noise", no_noise, VALUE),
    Fault(
        "noise of the place in the batch",
        f"{_EVALUATION}.evaluation_noise",
        noise_of_the_place_in_the_batch,
        f"{_TESTS}::test_noise_belongs_to_the_image_whatever_part_of_the_split_is_measured",
    ),
    Fault(
        "training noise that rounds the brightest pixel up to 1",
        "flowbench.densities.noise.training_noise",
        noise_finer_than_its_sum,
        "tests/densities/test_noise.py::test_the_brightest_pixel_stays_below_one_with_all_training_noise",
    ),
    Fault(
        "a seed in the bits that torch's generator does not read",
        "flowbench.tasks.forecast.step_seed",
        step_below_the_seed,
        "tests/test_seeds.py::test_two_seeds_draw_different_numbers_and_one_seed_the_same[teacher forcing]",
    ),
    Fault(
        "each process mirrors the first images of its own part",
        "flowbench.data.feed._Plan.draw",
        mirrored_first_of_each_part,
        "tests/data/test_feed.py::test_ranks_mirror_what_one_process_mirrors",
    ),
    Fault(
        "noise of a whole unit added to floats",
        f"{_DENSITY}.flow_input",
        noise_added_to_floats,
        "tests/densities/test_model.py::test_identity_on_uniform_images_gives_exactly_log2_of_the_levels",
    ),
    Fault(
        "batch statistics at test time",
        f"{_EVALUATION}.evaluating",
        batch_statistics,
        f"{_TESTS}::test_both_batch_norm_modes_stand_side_by_side_and_the_model_comes_out_as_it_went_in[running]",
    ),
    Fault(
        "unbiased variance in the moving average",
        "flowbench.densities.flows.normalization._count",
        unbiased_variance,
        "tests/densities/flows/test_normalization.py::test_moving_averages_move_by_a_tenth_towards_the_biased_moments",
    ),
    Fault(
        "a normalization in bfloat16 with an epsilon of its own",
        "flowbench.densities.flows.bfloat16.EPSILON",
        lambda epsilon: epsilon + 0.5,
        f"{_BFLOAT16}::test_normalization_relu_and_convolution_in_one_have_the_gradients_of_them_one_by_one[True]",
    ),
    Fault(
        "bfloat16 kernels of earlier weights",
        "flowbench.densities.flows.derived.Derived.get",
        whatever_was_computed_first,
        f"{_BFLOAT16}::test_kernels_that_evaluation_keeps_are_cast_again_when_weights_move",
    ),
    Fault(
        "moving averages used with averaged weights",
        f"{_EVALUATION}.reported_statistics",
        moving_averages_with_averaged_weights,
        f"{_TESTS}::test_averaged_weights_come_with_statistics_of_their_own",
    ),
    Fault(
        "channel order of the squeeze",
        "flowbench.densities.flows.squeeze.Squeeze.forward",
        positions_before_channels,
        "tests/densities/flows/test_squeeze.py::test_plain_squeeze_interleaves_the_positions_of_each_channel",
    ),
    Fault(
        "channel order of the squeeze before a factor-out",
        "flowbench.densities.flows.squeeze.OrderedSqueeze.forward",
        rows_before_the_diagonal,
        "tests/densities/flows/test_squeeze.py::test_ordered_squeeze_puts_the_diagonal_pixels_first",
    ),
    Fault(
        "a factored-out scale missing from the prior",
        "flowbench.densities.flows.glow.LearnedTop.log_prob",
        without_the_finest_scale,
        "tests/densities/flows/test_glow.py::test_learned_top_is_a_normal_with_its_own_mean_and_deviation_for_the_coarsest_latents",
    ),
    Fault(
        "log 2π missing from the prior",
        "flowbench.densities.bases.standard_normal_log_prob",
        without_log_two_pi,
        "tests/densities/test_bases.py::test_standard_normal_is_scipys",
    ),
    Fault(
        "the last test batch dropped",
        f"{_EVALUATION}.batches_in_order",
        without_the_last_batch,
        f"{_TESTS}::test_nothing_depends_on_the_batch_size_and_the_last_batch_counts[5]",
    ),
    Fault(
        "the last test windows dropped",
        "flowbench.forecasting.windows.Windows.in_order",
        without_the_last_windows,
        f"{_WINDOWS}::test_windows_hold_the_rows_they_should",
    ),
    Fault(
        "scaler fitted on test rows",
        "flowbench.forecasting.windows.fit_scaler",
        scaler_of_the_whole_file,
        f"{_WINDOWS}::test_changed_test_rows_change_no_scaler_and_no_training_window[ratio]",
    ),
    Fault(
        "rounding taken for the deviation of a constant column",
        "flowbench.forecasting.protocol._is_constant",
        constant_without_rounding,
        f"{_WINDOWS}::test_a_column_that_is_constant_up_to_rounding_is_divided_by_one_and_named[0.1-ratio]",
    ),
    Fault(
        "forecast windows off by one",
        "flowbench.forecasting.windows.Windows.__init__",
        futures_one_row_early,
        f"{_WINDOWS}::test_windows_hold_the_rows_they_should",
    ),
    Fault(
        "MAE averaged over batches instead of windows",
        "flowbench.forecasting.metrics.measure",
        mean_of_the_batches_means,
        f"{_METRICS}::test_metrics_are_the_means_over_every_window",
    ),
    Fault(
        "a gradient by hand of the sum where the loss is a mean",
        "flowbench.tasks.forecast.mean_errors_and_gradient",
        gradient_of_the_summed_error,
        "tests/tasks/test_forecast.py::test_a_linear_training_is_the_plain_loop_to_the_last_bit[nlinear-mse]",
    ),
    Fault(
        "teacher forcing at test time",
        "flowbench.forecasting.metrics.measure",
        teacher_forcing_at_test_time,
        f"{_METRICS}::test_measuring_feeds_no_future_back",
    ),
    Fault(
        "columns torn apart along the wrong axis",
        "flowbench.forecasting.models.lstm2lstm._apart",
        rows_dealt_out_to_columns,
        "tests/forecasting/test_lstm2lstm.py::test_independent_is_the_one_column_model_on_each_column",
    ),
    Fault(
        "sampled futures of the wrong scale",
        "flowbench.forecasting.models.flows.FlowForecaster._futures",
        latents_of_the_wrong_scale,
        f"{_DISTRIBUTIONS}::test_samples_follow_the_density[nlinear_flow]",
    ),
    Fault(
        "the widths before a flow left out of the density",
        "flowbench.forecasting.models.flows.FlowForecaster.log_prob_by_value",
        without_the_widths,
        f"{_DISTRIBUTIONS}::test_the_log_density_is_that_of_the_jacobian[nlinear_flow]",
    ),
    Fault(
        "the scaler's Jacobian left out of the density",
        "flowbench.forecasting.metrics.nll_under",
        same_under_every_scaler,
        f"{_DISTRIBUTIONS}::test_the_nll_under_another_scaler_is_that_of_the_density_of_other_units",
    ),
    Fault(
        "a CRPS of samples that is not fair",
        "flowbench.forecasting.scores.crps_of_samples",
        spread_over_all_pairs_with_themselves,
        "tests/forecasting/test_scores.py::test_the_fair_estimate_is_the_sum_over_all_pairs",
    ),
    Fault(
        "residuals of test windows",
        "flowbench.tasks.forecast.ForecastTask.prepare",
        fitted_on_test_windows,
        "tests/tasks/test_forecast.py::"
        "test_what_is_fitted_before_the_steps_has_seen_no_row_outside_the_training_part[empirical]",
    ),
    Fault(
        "the tested file scaled by its own scaler",
        "flowbench.tasks.forecast.open_windows",
        each_file_by_its_own_scaler,
        "tests/tasks/test_forecast.py::test_another_sets_test_part_is_measured_as_the_training_was_scaled",
    ),
    Fault(
        "the file changed, and the run is measured on it under its name",
        "flowbench.runs.same_data.change_of_data",
        other_bytes_unnoticed,
        f"{_SAME}::test_a_file_that_changed_is_refused_by_every_command_that_takes_it_for_the_runs_own",
    ),
    Fault(
        "other images prepared in the slot, and the run is measured on them",
        "flowbench.tasks.loading.check_same_data",
        other_bytes_unnoticed,
        f"{_SAME}::test_other_images_in_the_slot_of_a_folder_are_refused_and_measured_apart_when_asked_for",
    ),
    Fault(
        "another content's figures written over the run's own",
        "flowbench.tasks.forecast.stem_of",
        named_by_the_path_alone,
        f"{_SAME}::test_other_bytes_under_the_same_path_are_measured_with_the_runs_scaler_in_a_file_of_their_own",
    ),
    Fault(
        "half a day taken for a stuck sensor",
        "flowbench.forecasting.constant_runs.in_constant_runs",
        runs_of_half_a_day,
        "tests/forecasting/test_constant_runs.py::test_a_run_of_a_day_is_constant_and_one_row_less_is_not",
    ),
    Fault(
        "Glow's actnorm initialized twice",
        "flowbench.densities.initialization.initializing",
        initialized_again,
        "tests/densities/flows/test_actnorm.py::test_outside_the_block_nothing_depends_on_the_data",
    ),
    Fault(
        "TarFlow's mask off by one",
        f"{_TARFLOW}.F.pad",
        output_used_at_its_own_token,
        f"{_TARFLOW_TESTS}::test_each_block_reads_earlier_tokens_alone_in_its_own_order",
    ),
    Fault(
        "TarFlow's blocks undone in the order of forward",
        "flowbench.densities.flows.tarflow.TarFlow.inverse",
        in_the_order_of_forward,
        f"{_TARFLOW_TESTS}::test_labels_and_guidance_reach_the_inverse[0]",
    ),
    Fault(
        "TarFlow's scale undone with the other sign",
        f"{_TARFLOW}.TarFlowBlock.inverse",
        scale_of_the_other_sign,
        f"{_TARFLOW_TESTS}::test_labels_and_guidance_reach_the_inverse[0]",
    ),
    Fault(
        "TarFlow's log-determinant divided by the values of an image",
        f"{_TARFLOW}.TarFlowBlock.forward",
        per_dimension,
        f"{_TARFLOW_TESTS}::test_the_density_of_an_image_is_that_of_its_dequantized_self[17-shape0-True]",
    ),
    Fault(
        "TarFlow without scales scored under N(0, 1)",
        "flowbench.densities.flows.tarflow.LearnedVariance.log_prob",
        standard_normal_whatever_was_learned,
        f"{_TARFLOW_TESTS}::test_the_density_of_an_image_is_that_of_its_dequantized_self[17-shape0-False]",
    ),
    Fault(
        "bits/dim divided by the wrong D",
        "flowbench.densities.model.DensityModel.dimensions",
        without_the_channels,
        VALUE,
    ),
    Fault("standard error without Bessel's correction", f"{_EVALUATION}._mean", biased_standard_error, VALUE),
    Fault(
        "importance bound as the mean of the logarithms",
        "scipy.special.logsumexp",
        mean_of_the_logarithms,
        f"{_TESTS}::test_importance_bound_is_tighter_and_tends_to_the_truth",
    ),
    Fault(
        "raw weights under the averages' label",
        f"{_EVALUATION}.reported_weights",
        raw_weights,
        f"{_TESTS}::test_averaged_weights_are_used_and_put_away_again",
    ),
    Fault(
        "held-out images left in the training part",
        "flowbench.data.training_parts",
        holdout_in_training,
        "tests/data/test_images.py::test_the_holdout_is_fixed_and_cut_from_the_training_part",
    ),
    Fault(
        "kernels of older weights after a fused optimizer's step",
        "torch.autograd.graph.increment_version",
        unseen,
        "tests/training/test_compiled_training.py"
        "::test_figures_are_of_the_last_step_where_the_loss_leaves_nothing_but_gradients[glow-adam]",
    ),
    Fault(
        "biases that compiled networks leave out are left out of the recorded means",
        "flowbench.densities.flows.resnet.as_region",
        without_biases_that_cancel,
        "tests/densities/flows/test_resnet.py::test_the_compilers_form_of_a_network_is_the_network[False-True]",
    ),
    Fault(
        "compiled networks take a batch's mean for a constant",
        "flowbench.densities.flows.compiled_resnet._Layer._gradients",
        mean_without_gradient,
        "tests/densities/flows/test_resnet.py::test_the_compilers_form_of_a_network_is_the_network[False-True]",
    ),
    Fault(
        "compiled training moves no average",
        "flowbench.densities.flows.normalization._record_all",
        unseen,
        "tests/densities/flows/test_normalization.py"
        "::test_moments_recorded_afterwards_move_the_averages_as_each_alone_does",
    ),
    Fault(
        "the steps that only compile count as training",
        "flowbench.training.warm_up.undone",
        lambda _: nullcontext,
        "tests/training/test_warm_up.py"
        "::test_a_compiled_training_takes_the_steps_and_the_time_of_one_that_is_not[glow]",
    ),
    Fault(
        "fused attention counted as free",
        "flowbench.evaluation.flops._nothing_fused",
        as_it_runs,
        "tests/evaluation/test_flops.py::test_nothing_fused_is_taken_for_free[eval]",
    ),
    Fault(
        "test images pooled into training",
        "flowbench.data.sets.folder.find_parts",
        parts_pooled_into_training,
        "tests/data/test_folder.py::test_no_image_of_another_part_is_trained_on[training-testing-test]",
    ),
    Fault(
        "how the images were resized reaches no figure",
        f"{_EVALUATION}._summarize",
        without_how_images_were_resized,
        f"{_TESTS}::test_how_the_images_were_prepared_is_a_label_of_every_figure",
    ),
    Fault(
        "a figure of otherwise resized images taken for a reproduction",
        "flowbench.data.image_set.ImageSet.prepared_otherwise",
        any_images_will_do,
        "tests/tables/test_results.py::test_a_figure_of_otherwise_resized_images_is_badged_and_never_a_reproduction",
    ),
    Fault(
        "LSUN as it was prepared before taken for the released way",
        "flowbench.data.image_set.ImageSet.choices",
        unnamed_counts_as_the_released_way,
        "tests/data/test_pictures.py::test_an_lsun_manifest_that_names_no_way_is_of_the_way_before_there_was_a_choice",
    ),
    Fault(
        "lags capped at a quarter of the windows, below the horizon",
        "flowbench.evaluation.paired.compare_values",
        lags_capped_below_the_horizon,
        f"{_LEVEL}[720]",
    ),
    Fault(
        "an error of few horizons judged by the normal quantile",
        "flowbench.evaluation.error_bars.ErrorBar.p_value",
        normal_quantile,
        f"{_LEVEL}[192]",
    ),
    Fault(
        "three seeds judged by the normal quantile",
        "flowbench.report.verdict.over_seeds",
        spread_known_exactly,
        "tests/report/test_verdict.py::test_few_seeds_are_judged_by_students_t[3-4.3027]",
    ),
    Fault(
        "a step of a non-finite gradient taken on a GPU",
        "flowbench.training.optimization._step_if",
        taken_anyhow,
        "tests/training/test_optimization.py::test_a_device_undoes_a_step_that_was_not_to_be_taken_to_the_last_bit[adamax]",
    ),
    Fault(
        "a throughput pass on images of another layout than training's",
        "flowbench.throughput.passes.channels_first",
        copied_by_channels,
        "tests/throughput/test_measurement.py::test_images_lie_in_memory_as_training_is_fed",
    ),
    Fault(
        "a pixel that sees itself: the first column not shifted",
        "flowbench.densities.autoregressive.network.right_shift",
        seeing_the_pixel_itself,
        _CAUSAL,
    ),
    Fault(
        "a pixel that sees itself: the first row not shifted",
        "flowbench.densities.autoregressive.network.down_shift",
        seeing_the_pixel_itself,
        _CAUSAL,
    ),
    Fault(
        "a doubled map cropped one column too far right",
        "flowbench.densities.autoregressive.layers.ShiftedDeconv.cropped",
        one_column_further_right,
        _SHAPES,
    ),
    Fault(
        "a transposed kernel normalized for each input channel",
        "flowbench.densities.autoregressive.layers.Normed._directions",
        norm_of_an_input_channel,
        f"{_PIXELCNN}/test_pixelcnn.py::test_transposed_kernels_are_normalized_for_each_output_channel",
    ),
    Fault(
        "the coefficients of blue swapped",
        "flowbench.densities.autoregressive.mixture.LogisticMixture.parameters",
        coefficients_by_the_colour_that_they_follow,
        f"{_PIXELCNN}/test_mixture.py::test_a_later_channel_knows_the_channels_before_it_by_its_own_coefficients",
    ),
    Fault(
        "outermost bins that end where the others' width would",
        "flowbench.densities.autoregressive.mixture.LogisticMixture.branches",
        outermost_bins_as_narrow_as_others,
        f"{_PIXELCNN}/test_mixture.py::test_the_probabilities_of_a_pixel_sum_to_one[1-17]",
    ),
    Fault(
        "bins of 256 levels at 17",
        "flowbench.densities.autoregressive.mixture.LogisticMixture.__init__",
        constants_of_256_levels,
        f"{_PIXELCNN}/test_mixture.py::test_the_probabilities_of_a_pixel_sum_to_one[1-17]",
    ),
    Fault(
        "epsilon outside the root",
        "flowbench.training.authors_adam.InsideAdam._move",
        epsilon_outside_the_root,
        "tests/training/test_optimization.py::test_epsilon_inside_the_root_slows_small_gradients",
    ),
    Fault(
        "free bits counted in the figure",
        "flowbench.densities.variational.iaf_vae.IAFVAE.terms",
        free_bits_in_every_figure,
        f"{_IAF_VAE}::test_free_bits_are_what_a_channels_divergence_lacks_and_enter_no_figure",
    ),
    Fault(
        "free bits over the images' sum beside the likelihood's mean",
        "flowbench.densities.variational.iaf_vae.IAFVAE.training_terms",
        free_bits_on_top,
        f"{_IAF_VAE}::test_free_bits_are_what_a_channels_divergence_lacks_and_enter_no_figure",
    ),
    Fault(
        "a decoder without edge bins",
        "flowbench.densities.variational.discretized_logistic.log_prob",
        bins_of_one_width,
        "tests/densities/variational/test_discretized_logistic.py::test_over_the_levels_the_likelihood_sums_to_one",
    ),
    Fault(
        "a decoder's bins of 256 levels at any number",
        "flowbench.densities.variational.discretized_logistic._bins",
        bins_of_256_levels,
        "tests/densities/variational/test_discretized_logistic.py::test_a_level_has_the_logistics_mass_between_its_edges",
    ),
    Fault(
        "the sign of the inverse autoregressive flow's log-scale",
        "flowbench.densities.variational.inverse_autoregressive.InverseAutoregressiveFlow.forward",
        flow_scaled_the_wrong_way,
        f"{_IAF_VAE}::test_the_log_determinant_of_the_flow_is_that_of_its_jacobian",
    ),
    Fault(
        "an autoregressive mask that lets a latent see itself",
        "flowbench.densities.variational.convolutions._mask",
        mask_off_by_one,
        f"{_IAF_VAE}::test_the_log_determinant_of_the_flow_is_that_of_its_jacobian",
    ),
    Fault(
        "a critic that learns to prefer samples",
        "flowbench.densities.critic.critic_loss",
        critic_that_prefers_samples,
        "tests/densities/test_critic.py::test_the_loss_of_a_linear_critic_is_the_closed_form",
    ),
    Fault(
        "a flow that learns to displease its critic",
        "flowbench.tasks.objectives.Adversarial.forward",
        flow_that_pleases_no_critic,
        f"{_OBJECTIVES}::test_the_flow_wants_a_higher_verdict",
    ),
    Fault(
        "a flow's step whose gradients reach its critic",
        "flowbench.tasks.objectives.held_fixed",
        lambda _: nullcontext,
        f"{_OBJECTIVES}::test_the_flows_step_leaves_the_critic_alone",
    ),
    Fault(
        "an adversarial training of an actnorm that never saw an image",
        "flowbench.tasks.density.DensityTask.prepare",
        lambda _: lambda self: False,
        f"{_OBJECTIVES}::test_a_flow_is_initialized_from_images_before_it_meets_its_critic",
    ),
]
