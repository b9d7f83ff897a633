def draw_figures(found, votes, docs):
    pass
