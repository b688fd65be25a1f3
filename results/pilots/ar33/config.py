import ml_collections
def get_config():
    config = ml_collections.ConfigDict()
    front = dict(place="front", new="zero_b", rate=0.2)
    one=lambda d: dict(depths=(d,), weights=(1.0,), held_out_depth=6)
    config.families = dict(arithmetic=dict(
        buckets=(26,40), topology="3-3-2-2-1", options=dict(depths=(5,), weights=(1.0,), uneven=True, held_out_depth=6),
        stages=(
            dict(topology="2-1", steps=5, options=one(2)),
            dict(topology="2-2-1", steps=10, options=one(3), growth=front),
            dict(topology="3-2-2-1", steps=12, options=one(4), growth=front),
            dict(steps=33, growth=front),
        )))
    config.prompt = dict(tag="<node> {height} {index}")
    config.methods = ("grown",)
    config.seeds = (100,)
    config.learning_rate = dict(default=5e-3)
    config.training = dict(evaluate_every=5, influence_every=1000, checkpoint_every=50)
    return config
