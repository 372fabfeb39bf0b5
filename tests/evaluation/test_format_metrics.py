"""The printed form of the figures."""

from ipg_jax.evaluation import evaluate_coco, evaluate_voc, format_metrics

BOX, SMALL = (10, 10, 60, 60), (100, 100, 110, 110)


def test_voc_table(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0)], class_names=("cat", "potted plant"))
    results = make_results(ground_truth, (0, SMALL, 0, 0.9), (0, BOX, 0, 0.8))
    assert format_metrics(evaluate_voc(ground_truth, results)) == (
        "class         objects     AP  AP_11point  recall\n"
        "------------------------------------------------\n"
        "cat                 1  50.00       50.00  100.00\n"
        "potted plant        0    n/a         n/a     n/a\n"
        "------------------------------------------------\n"
        "mAP           50.00\n"
        "mAP_11point   50.00"
    )


def test_coco_table_is_aligned_and_never_shows_minus_one(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0)])
    text = format_metrics(evaluate_coco(ground_truth, make_results(ground_truth, (0, BOX, 0, 0.9))))
    table, summary = text.split("\n")[:5], text.split("\n")[5:]
    assert len({len(line) for line in table}) == 1
    assert " ".join(table[2].split()) == "cat 1 100.00 100.00 100.00 n/a 100.00 n/a 100.00"
    assert "AP_small      n/a" in summary
    assert len(summary) == 12
    assert len({len(line) for line in summary}) == 1
    assert "-1" not in text
