import ml_collections
def get_config():
    config = ml_collections.ConfigDict()
    front = dict(place="front", new="zero_b")
    one=lambda d: dict(depths=(d,), weights=(1.0,), held_out_depth=6)
    config.families = dict(strings=dict(
        buckets=(10,12), message_tokens=5, tokens_per_fact=5, topology="2-2-2-2-1", options=one(5),
        stages=(
            dict(topology="2-1", steps=10, options=one(2)),
            dict(topology="2-2-1", steps=15, options=one(3), growth=front),
            dict(topology="2-2-2-1", steps=20, options=one(4), growth=front),
            dict(steps=55, growth=front),
        )))
    config.prompt = dict(tag="<node> {height} {index}")
    config.methods = ("grown", "graph_mixed")
    config.seeds = (100,)
    config.learning_rate = dict(default=2e-3)
    config.training = dict(evaluate_every=10, influence_every=1000, checkpoint_every=50)
    return config
