import torch

from leworld.models.codec import CODE_DIM, Codec, soft_read


def codec_of(seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    return Codec()


def random_bits(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2, (count, 32), generator=torch.Generator().manual_seed(seed)).float()


def test_shapes_and_no_words():
    codec = codec_of()
    assert codec.encode(random_bits(5)).shape == (5, CODE_DIM)
    assert codec.decode(codec.encode(random_bits(5))).shape == (5, 32)
    assert codec.encode(random_bits(0)).shape == (0, CODE_DIM)


def test_a_word_of_zeros_and_its_complement_are_not_silent():
    codec = codec_of()
    zeros, ones = codec.encode(torch.stack([torch.zeros(32), torch.ones(32)]))
    assert not torch.allclose(zeros, ones, atol=0.1)
    assert zeros.abs().sum() > 1


def test_reconstruction_learns_also_for_words_never_seen():
    codec = codec_of()
    adam = torch.optim.Adam(codec.parameters(), lr=1e-2)
    unseen = random_bits(64, seed=99)
    before = codec.reconstruction_loss(unseen).item()
    for step in range(150):
        loss = codec.reconstruction_loss(random_bits(64, seed=step))
        adam.zero_grad()
        loss.backward()
        adam.step()
    after = codec.reconstruction_loss(unseen).item()
    assert before > 0.6
    assert after < 0.15
    right = (codec.decode(codec.encode(unseen)) > 0).float() == unseen
    assert right.float().mean() > 0.97


def test_soft_read_equals_a_hard_read_for_one_hot_weights():
    codec, bits = codec_of(), random_bits(20)
    picked = torch.tensor([3, 0, 19, 3])
    soft = soft_read(codec, bits, torch.nn.functional.one_hot(picked, 20).float())
    assert torch.allclose(soft, codec.encode(bits[picked]), atol=1e-6)


def test_soft_read_is_differentiable_in_its_weights_and_in_the_codec():
    codec, bits = codec_of(), random_bits(6)
    weights = torch.softmax(torch.randn(2, 6, generator=torch.Generator().manual_seed(1)), dim=-1).requires_grad_()
    upstream = torch.randn(2, CODE_DIM, generator=torch.Generator().manual_seed(2))
    (soft_read(codec, bits, weights) * upstream).sum().backward()
    assert torch.allclose(weights.grad, upstream @ codec.encode(bits).T, atol=1e-4)
    assert all(weight.grad.abs().sum() > 0 for weight in codec.encoder.parameters())
