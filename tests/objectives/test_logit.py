import pytest
import torch

from palate.objectives.logit import denoising_error, logit


def test_published_vector():
    values = [torch.tensor([v], dtype=torch.float64) for v in (0.1000, 0.2001, 0.1002, 0.2000)]
    assert logit(*values, beta=5000).item() == pytest.approx(0.75, rel=1e-9)


def test_swapping_the_images_turns_the_sign():
    error_0, error_1, reference_0, reference_1 = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    z = logit(error_0, error_1, reference_0, reference_1, beta=100)
    torch.testing.assert_close(logit(error_1, error_0, reference_1, reference_0, beta=100), -z, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logit_is_exactly_zero_while_policy_and_reference_agree(dtype):
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randn(2, 3, 4, 8, 8, generator=generator).to(dtype)
    error = denoising_error(prediction, target)
    assert error.dtype == torch.float32
    assert torch.all(logit(error, error.flip(0), error.clone(), error.flip(0).clone(), beta=5000) == 0)


def test_error_is_a_mean_over_everything_but_the_batch_and_casts_before_the_difference():
    generator = torch.Generator().manual_seed(2)
    prediction, target = torch.randn(2, 3, 4, 8, 8, generator=generator).to(torch.bfloat16)
    expected = ((prediction.double() - target.double()) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(denoising_error(prediction, target).double(), expected, rtol=1e-6, atol=0)
    assert ((prediction - target).square().double().mean(dim=(1, 2, 3)) - expected).abs().max() > 1e-4 * expected.min()


def test_double_precision_stays():
    assert denoising_error(torch.ones(1, 2, 2, 2).double(), torch.zeros(1, 2, 2, 2).double()).dtype == torch.float64
