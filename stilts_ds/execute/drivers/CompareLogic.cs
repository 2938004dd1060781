// What MBXP's C# tests compare with: two values are equal if they have one type and equal contents, in order for lists.
// It stands in for a library of the same name, of which the tests use no more than this.
using System;
using System.Collections;
using System.Collections.Generic;

namespace KellermanSoftware.CompareNetObjects
{
    public class ComparisonResult
    {
        public bool AreEqual { get; set; }
    }

    public class CompareLogic
    {
        public ComparisonResult Compare(object actual, object expected)
        {
            return new ComparisonResult { AreEqual = Same(actual, expected) };
        }

        private static bool Same(object actual, object expected)
        {
            if (actual == null || expected == null) return actual == null && expected == null;
            if (actual.GetType() != expected.GetType()) return false;
            if (actual is string) return (string)actual == (string)expected;
            if (actual is IDictionary) return SameEntries((IDictionary)actual, (IDictionary)expected);
            if (!(actual is IEnumerable)) return actual.Equals(expected);
            var kind = actual.GetType();
            bool isSet = kind.IsGenericType && kind.GetGenericTypeDefinition() == typeof(HashSet<>);
            return isSet ? SameMembers(Items(actual), Items(expected)) : SameItems(Items(actual), Items(expected));
        }

        private static List<object> Items(object values)
        {
            var items = new List<object>();
            foreach (object item in (IEnumerable)values) items.Add(item);
            return items;
        }

        private static bool SameItems(List<object> actual, List<object> expected)
        {
            if (actual.Count != expected.Count) return false;
            for (int index = 0; index < actual.Count; index++)
            {
                if (!Same(actual[index], expected[index])) return false;
            }
            return true;
        }

        // Members may be lists, which C# itself compares by identity: each is looked for among those that are left.
        private static bool SameMembers(List<object> actual, List<object> expected)
        {
            if (actual.Count != expected.Count) return false;
            var left = new List<object>(expected);
            foreach (object item in actual)
            {
                int place = left.FindIndex(other => Same(item, other));
                if (place < 0) return false;
                left.RemoveAt(place);
            }
            return true;
        }

        private static bool SameEntries(IDictionary actual, IDictionary expected)
        {
            var ours = new List<object>();
            var theirs = new List<object>();
            foreach (DictionaryEntry entry in actual) ours.Add(new List<object> { entry.Key, entry.Value });
            foreach (DictionaryEntry entry in expected) theirs.Add(new List<object> { entry.Key, entry.Value });
            return SameMembers(ours, theirs);
        }
    }
}
