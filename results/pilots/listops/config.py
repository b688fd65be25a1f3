import ml_collections
def get_config():
    config = ml_collections.ConfigDict()
    front = dict(place="front", new="zero_b")
    config.families = dict(listops=dict(
        buckets=(24, 48), topology="4-2-1", options=dict(depths=(3,), weights=(1.0,)),
        stages=(
            dict(topology="2-1", steps=20, options=dict(depths=(1, 2), weights=(0.3, 0.7))),
            dict(steps=80, growth=front),
        )))
    config.prompt = dict(tag="<node> {height} {index}")
    config.methods = ("grown", "graph_mixed", "graph", "graph_schedule")
    config.seeds = (100,101,102)
    config.learning_rate = dict(default=2e-3)
    config.training = dict(evaluate_every=10, influence_every=1000, checkpoint_every=50)
    return config
