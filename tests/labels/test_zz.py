import time, pytest, cProfile, pstats
from tests.labels.test_queue import _many_pairs, judge
from webapp.labels.models import Judgement, Assignment
from webapp.labels.queue import assignments_for
pytestmark = pytest.mark.django_db
def test_x(project, annotator, admin, make_prompt):
    _many_pairs(project, make_prompt, 600)
    for _ in range(3): judge(assignments_for(project=project, annotator=admin, count=1)[0])
    t=time.process_time(); n=30; td=0
    pr=cProfile.Profile()
    for k in range(n):
        t0=time.process_time(); 
        if k>=15: pr.enable()
        [card] = assignments_for(project=project, annotator=admin, count=1)
        pr.disable()
        td+=time.process_time()-t0; judge(card)
    print("draw ms", td/n*1000, "both", (time.process_time()-t)/n*1000)
    pstats.Stats(pr).sort_stats("cumtime").print_stats(45)
